package agent

import (
	"math/big"
	"regexp"
	"strings"
)

var quantity = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?|\.[0-9]+)([KMGTPE]i|[kMGTPE]|[eE][+-]?[0-9]+)?$`)

var multipliers = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// QuantityBytes parses a Kubernetes quantity to bytes, rounded up. ok is false for anything malformed or beyond int64.
// "1E" is an exa, "1E3" a decimal exponent, as in Kubernetes.
func QuantityBytes(s string) (bytes int64, ok bool) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	number, suffix := m[1], m[2]
	factor, known := multipliers[suffix]
	if !known {
		if len(strings.TrimLeft(suffix[1:], "+-0")) > 2 { // an exponent that big.Rat would expand to gigabytes
			return 0, false
		}
		number, factor = number+suffix, 1
	}
	r, valid := new(big.Rat).SetString(number)
	if !valid {
		return 0, false
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	n := new(big.Int).Add(r.Num(), new(big.Int).Sub(r.Denom(), big.NewInt(1)))
	n.Quo(n, r.Denom())
	if !n.IsInt64() {
		return 0, false
	}
	return n.Int64(), true
}
