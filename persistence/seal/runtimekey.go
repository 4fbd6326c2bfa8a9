package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"troupe/actors/agent"
)

// PrefixRuntime starts every runtime key.
const PrefixRuntime = "trk_"

// RuntimeKey is the key of one pod incarnation: trk_<agent>_<incarnation>_<mac>. It is derived, so nothing of it is
// stored and every start of the same incarnation gets the same one; it dies when the incarnation is no longer the live one.
func (b *Box) RuntimeKey(id agent.ID, incarnation int64) agent.Secret {
	text := string(id) + "_" + strconv.FormatInt(incarnation, 10)
	return agent.NewSecret(PrefixRuntime + text + "_" + b.runtimeMAC(text))
}

func (b *Box) runtimeMAC(text string) string {
	m := hmac.New(sha256.New, b.Derive("runtime-key"))
	m.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// ParseRuntimeKey returns whose key it is. Whether that incarnation is still the live one is for the store to say.
func (b *Box) ParseRuntimeKey(key string) (id agent.ID, incarnation int64, ok bool) {
	rest, ok := strings.CutPrefix(key, PrefixRuntime)
	if !ok {
		return "", 0, false
	}
	p := strings.SplitN(rest, "_", 3)
	if len(p) != 3 {
		return "", 0, false
	}
	id, valid := agent.ParseID(p[0])
	n, err := strconv.ParseInt(p[1], 10, 64)
	if !valid || err != nil || !hmac.Equal([]byte(b.runtimeMAC(p[0]+"_"+p[1])), []byte(p[2])) {
		return "", 0, false
	}
	return id, n, true
}
