// Package auth says who may call: logins, platform keys and runtime keys, and the passwords and tokens behind them.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/argon2"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/persistence/seal"
)

// Store is what authentication reads.
type Store interface {
	account.Accounts
	account.PlatformKeys
}

const (
	cacheFor  = 900 * time.Millisecond // a deleted key dies everywhere within a second (AUTH-3)
	cacheSize = 10000
	touchMin  = time.Minute // last_used_at is written at most so often (AUTH-4)
	issuer    = "troupe"
	// TokenLife is how long a login holds (AUTH-3).
	TokenLife = 24 * time.Hour
)

// Service implements route.Authenticator.
type Service struct {
	store Store
	box   *seal.Box
	log   *slog.Logger
	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	caller account.Caller
	until  time.Time
}

// New returns a service on the store.
func New(store Store, box *seal.Box, log *slog.Logger) *Service {
	return &Service{store: store, box: box, log: log, cache: map[string]cached{}}
}

func missing() error {
	return fault.New(fault.Unauthenticated, "missing_authorization", "Authorization header is required")
}

// Invalid refuses a credential without saying why.
func Invalid() error {
	return fault.New(fault.Unauthenticated, "invalid_token", "Invalid or expired token")
}

// bearer returns the value of an Authorization: Bearer header.
func bearer(header func(string) string) string {
	scheme, v, ok := strings.Cut(header("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(v)
}

const keyPrefix = "sk_shinzo"

// Caller implements route.Authenticator: the order of AUTH-1.
func (s *Service) Caller(ctx context.Context, header func(string) string, jwtOnly bool) (account.Caller, error) {
	for _, h := range []string{"x-shinzo-api-key", "x-api-key"} {
		if k := header(h); strings.HasPrefix(k, keyPrefix) {
			if jwtOnly {
				return account.Caller{}, Invalid()
			}
			return s.platformKey(ctx, k)
		}
	}
	b := bearer(header)
	switch {
	case b == "" && header("Authorization") == "":
		return account.Caller{}, missing()
	case b == "" || strings.HasPrefix(b, seal.PrefixRuntime):
		return account.Caller{}, Invalid()
	case strings.HasPrefix(b, keyPrefix) && jwtOnly:
		return account.Caller{}, Invalid()
	case strings.HasPrefix(b, keyPrefix):
		return s.platformKey(ctx, b)
	}
	return s.token(ctx, b)
}

// Runner implements route.Authenticator: a runtime key as bearer or in x-api-key (LLM-1).
func (s *Service) Runner(header func(string) string) (agent.ID, int64, error) {
	key := bearer(header)
	if !strings.HasPrefix(key, seal.PrefixRuntime) {
		if k := header("x-api-key"); k != "" {
			key = k
		}
	}
	if key == "" {
		return "", 0, missing()
	}
	id, inc, ok := s.box.ParseRuntimeKey(key)
	if !ok {
		return "", 0, Invalid()
	}
	return id, inc, nil
}

func (s *Service) cached(key string, load func() (account.Caller, error)) (account.Caller, error) {
	s.mu.Lock()
	c, ok := s.cache[key]
	s.mu.Unlock()
	if ok && time.Now().Before(c.until) {
		return c.caller, nil
	}
	caller, err := load()
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			return caller, Invalid()
		}
		return caller, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cache) >= cacheSize {
		clear(s.cache)
	}
	s.cache[key] = cached{caller, time.Now().Add(cacheFor)}
	return caller, nil
}

// KeyHash is how a platform key is stored: keyed, so that a stolen store cannot be searched for guesses.
func (s *Service) KeyHash(key string) string { return s.box.MAC("platform-key", key) }

func (s *Service) platformKey(ctx context.Context, key string) (account.Caller, error) {
	hash := s.KeyHash(key)
	return s.cached("k"+hash, func() (account.Caller, error) {
		k, err := s.store.PlatformKeyByHash(ctx, hash)
		if err != nil {
			return account.Caller{}, err
		}
		if k.Status != account.KeyActive || subtle.ConstantTimeCompare([]byte(k.Hash), []byte(hash)) != 1 {
			return account.Caller{}, Invalid()
		}
		a, err := s.store.Account(ctx, k.Account)
		if err != nil {
			return account.Caller{}, err
		}
		if time.Since(k.LastUsedAt) > touchMin {
			k.LastUsedAt = time.Now().UTC()
			if err := s.store.PutPlatformKey(ctx, k); err != nil {
				s.log.Warn("last use of a key not noted", "err", err)
			}
		}
		return account.Caller{Account: a, KeyID: k.ID, Scope: k.Scope}, nil
	})
}

type claims struct {
	UUID     string `json:"uuid"`
	Email    string `json:"email"`
	Verified bool   `json:"verified"`
	jwt.RegisteredClaims
}

// Token makes the login token of an account (AUTH-3).
func (s *Service) Token(a account.Account) (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims{UUID: string(a.ID), Email: a.Email, Verified: a.Verified,
		RegisteredClaims: jwt.RegisteredClaims{Issuer: issuer, Audience: jwt.ClaimStrings{issuer}, IssuedAt: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(TokenLife))}}).SignedString(s.box.Derive("jwt"))
}

func (s *Service) token(ctx context.Context, raw string) (account.Caller, error) {
	var c claims
	_, err := jwt.ParseWithClaims(raw, &c, func(*jwt.Token) (any, error) { return s.box.Derive("jwt"), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithIssuer(issuer), jwt.WithAudience(issuer))
	if err != nil {
		return account.Caller{}, Invalid()
	}
	return s.cached("a"+c.UUID, func() (account.Caller, error) {
		a, err := s.store.Account(ctx, account.ID(c.UUID))
		return account.Caller{Account: a}, err
	})
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// Random returns n random characters of the alphanumeric alphabet.
func Random(n int) string {
	b := make([]byte, n)
	for i := range b {
		x, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphanumeric))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		b[i] = alphanumeric[x.Int64()]
	}
	return string(b)
}

// NewPlatformKey makes a key and what is stored of it (AUTH-4).
func (s *Service) NewPlatformKey(owner account.ID, name string, scope account.Scope) (key string, k account.PlatformKey) {
	key = "sk_shinzo_live_" + Random(42)
	return key, s.KeyRecord(owner, name, scope, key)
}

// KeyRecord is what is stored of a given key.
func (s *Service) KeyRecord(owner account.ID, name string, scope account.Scope, key string) account.PlatformKey {
	return account.PlatformKey{ID: agent.NewUUID(), Account: owner, Name: name, Prefix: key[:20] + "...", Hash: s.KeyHash(key), Scope: scope,
		Status: account.KeyActive, CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
}

// Parameters of argon2id (RFC 9106, second recommended option, fewer lanes).
const (
	argonTime, argonMemory, argonLanes, argonKey = 2, 19 * 1024, 1, 32
	hashesAtOnce                                 = 4 // passwords hashed in parallel; they cost memory
)

var hashing = make(chan struct{}, hashesAtOnce)

// HashPassword returns the stored form of a password.
func HashPassword(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	hashing <- struct{}{}
	defer func() { <-hashing }()
	sum := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonKey)
	return fmt.Sprintf("argon2id$%s$%s", base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

// decoy is verified for unknown e-mails, so that they cost the same time as a wrong password (AUTH-5).
var decoy = sync.OnceValue(func() string { return HashPassword("decoy") })

// CheckPassword compares a password with its stored form; an empty form takes as long and never matches.
func CheckPassword(stored, password string) bool {
	known := stored != ""
	if !known {
		stored = decoy()
	}
	p := strings.Split(stored, "$")
	if len(p) != 3 {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(p[1])
	want, err2 := base64.RawStdEncoding.DecodeString(p[2])
	if errors.Join(err1, err2) != nil {
		return false
	}
	hashing <- struct{}{}
	got := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonKey)
	<-hashing
	return subtle.ConstantTimeCompare(got, want) == 1 && known
}
