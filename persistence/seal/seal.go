// Package seal encrypts secrets before they reach a store and derives every key of the installation from one master key.
//
// Sealed values are "v1.<key id>.<base64 of nonce and ciphertext>", AES-256-GCM, bound to their owner and slot, so that a
// ciphertext cannot be moved to another agent or field (SEC-1).
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"troupe/actors/agent"
)

// Box holds the keys of an installation.
type Box struct {
	aead   cipher.AEAD
	id     string
	master []byte
	keys   sync.Map // purpose → derived key
}

// ParseKey reads a master key: base64 of 32 bytes.
func ParseKey(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != 32 {
		return nil, errors.New("must be base64 of 32 bytes; make one with: head -c 32 /dev/urandom | base64")
	}
	return b, nil
}

// NewKey makes a master key in the form that ParseKey reads.
func NewKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(b)
}

// New returns the box of a master key of 32 bytes.
func New(master []byte) (*Box, error) {
	b := &Box{master: master}
	key := b.Derive("seal")
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if b.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(key)
	b.id = hex.EncodeToString(sum[:4])
	return b, nil
}

// Derive returns the 32-byte key for one purpose.
func (b *Box) Derive(purpose string) []byte {
	if k, ok := b.keys.Load(purpose); ok {
		return k.([]byte)
	}
	k, err := hkdf.Key(sha256.New, b.master, nil, "troupe/"+purpose, 32)
	if err != nil {
		panic(err) // only for absurd lengths
	}
	b.keys.Store(purpose, k)
	return k
}

// MAC returns the hex HMAC-SHA-256 of text under the key of one purpose. It is how random credentials are stored (AUTH-4).
func (b *Box) MAC(purpose, text string) string {
	m := hmac.New(sha256.New, b.Derive(purpose))
	m.Write([]byte(text))
	return hex.EncodeToString(m.Sum(nil))
}

// Seal encrypts value for one owner and slot.
func (b *Box) Seal(owner, slot, value string) (string, error) {
	nonce := make([]byte, b.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	out := b.aead.Seal(nonce, nonce, []byte(value), []byte(owner+"\x00"+slot))
	return "v1." + b.id + "." + base64.RawURLEncoding.EncodeToString(out), nil
}

// Open decrypts what Seal made for the same owner and slot.
func (b *Box) Open(owner, slot, sealed string) (string, error) {
	p := strings.Split(sealed, ".")
	if len(p) != 3 || p[0] != "v1" {
		return "", errors.New("not a sealed value")
	}
	if p[1] != b.id {
		return "", fmt.Errorf("sealed with key %s, this installation has %s", p[1], b.id)
	}
	raw, err := base64.RawURLEncoding.DecodeString(p[2])
	if err != nil || len(raw) < b.aead.NonceSize() {
		return "", errors.New("damaged sealed value")
	}
	n := b.aead.NonceSize()
	out, err := b.aead.Open(nil, raw[:n], raw[n:], []byte(owner+"\x00"+slot))
	if err != nil {
		return "", errors.New("sealed for another owner or field, or damaged")
	}
	return string(out), nil
}

// SealAgent is Seal in the shape of agent.Seal.
func (b *Box) SealAgent(id agent.ID, slot string, v agent.Secret) (string, error) {
	return b.Seal(string(id), slot, v.Reveal())
}
