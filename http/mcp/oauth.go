package mcp

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"

	"troupe/actors/fault"
)

// ahead is how long before its end an access token is renewed.
const ahead = 2 * time.Minute

// Credentials are the tokens of a finished flow and what is needed to renew them. They are stored sealed.
type Credentials struct {
	Access    string `json:"access"`
	Refresh   string `json:"refresh,omitempty"`
	ExpiresMS int64  `json:"expires_ms,omitempty"` // 0: never
	Issuer    string `json:"issuer"`
	Resource  string `json:"resource"`
	App
}

// App is this installation as the authorization server knows it.
type App struct {
	ClientID string `json:"client_id"`
	Secret   string `json:"client_secret,omitempty"`
	Auth     string `json:"auth_url"`
	Token    string `json:"token_url"`
}

// Flow is a flow that the user has not finished yet. It is stored sealed, under the hash of its state.
type Flow struct {
	Verifier string `json:"verifier"`
	Redirect string `json:"redirect"`
	Issuer   string `json:"issuer"`
	Resource string `json:"resource"`
	App
}

// unsupported is the answer for a server that does not tell how to authorise.
func unsupported(err error) error {
	return fault.New(fault.Invalid, "oauth_not_supported", "The server does not support OAuth").Because(err)
}

// wellKnown makes the addresses at which metadata of a URL may be: with its path behind the well-known part, then without.
func wellKnown(raw, name string) []string {
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	origin := u.Scheme + "://" + u.Host
	path := strings.TrimSuffix(u.Path, "/")
	out := []string{origin + "/.well-known/" + name + path}
	if path != "" {
		out = append(out, origin+"/.well-known/"+name)
	}
	return out
}

// discover finds the authorization server of a resource (RFC 9728, RFC 8414). Without a description of the resource, its own
// origin is asked, as early versions of the protocol say.
func (r *Reach) discover(ctx context.Context, resource string) (*oauthex.AuthServerMeta, []string, error) {
	u, err := url.Parse(resource)
	if err != nil {
		return nil, nil, err
	}
	origin := u.Scheme + "://" + u.Host
	issuers, scopes := []string{origin}, []string(nil)
	for i, at := range wellKnown(resource, "oauth-protected-resource") {
		about := resource
		if i > 0 {
			about = origin
		}
		if meta, err := oauthex.GetProtectedResourceMetadata(ctx, at, about, r.HTTP); err == nil && len(meta.AuthorizationServers) > 0 {
			issuers, scopes = meta.AuthorizationServers[:1], meta.ScopesSupported
			break
		}
	}
	var last error
	places := append(wellKnown(issuers[0], "oauth-authorization-server"), wellKnown(issuers[0], "openid-configuration")...)
	places = append(places, strings.TrimSuffix(issuers[0], "/")+"/.well-known/openid-configuration")
	for _, at := range places {
		meta, err := oauthex.GetAuthServerMeta(ctx, at, issuers[0], r.HTTP)
		if err == nil && meta != nil && meta.AuthorizationEndpoint != "" && meta.TokenEndpoint != "" {
			return meta, scopes, nil
		}
		if err != nil {
			last = err
		}
	}
	return nil, nil, unsupported(last)
}

// Begin starts a flow for a server and returns the address to send the user's browser to. ClientID is the installation's
// client there, "" to register one (RFC 7591).
func (r *Reach) Begin(ctx context.Context, server, clientID, redirect, state string) (string, Flow, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	meta, scopes, err := r.discover(ctx, server)
	if err != nil {
		return "", Flow{}, err
	}
	f := Flow{Verifier: oauth2.GenerateVerifier(), Redirect: redirect, Issuer: meta.Issuer, Resource: server,
		App: App{ClientID: clientID, Auth: meta.AuthorizationEndpoint, Token: meta.TokenEndpoint}}
	if clientID == "" {
		if meta.RegistrationEndpoint == "" {
			return "", Flow{}, unsupported(nil)
		}
		reg, err := oauthex.RegisterClient(ctx, meta.RegistrationEndpoint, &oauthex.ClientRegistrationMetadata{RedirectURIs: []string{redirect}, ClientName: "troupe",
			GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"}, TokenEndpointAuthMethod: "none", Scope: strings.Join(scopes, " ")}, r.HTTP)
		if err != nil {
			return "", Flow{}, failed(err)
		}
		f.ClientID, f.Secret = reg.ClientID, reg.ClientSecret
	}
	cfg := f.config(redirect)
	cfg.Scopes = scopes
	return cfg.AuthCodeURL(state, oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("resource", server)), f, nil
}

func (a *App) config(redirect string) *oauth2.Config {
	style := oauth2.AuthStyleAutoDetect
	if a.Secret == "" { // a public client; trying both ways would use up the code
		style = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{ClientID: a.ClientID, ClientSecret: a.Secret, RedirectURL: redirect, Endpoint: oauth2.Endpoint{AuthURL: a.Auth, TokenURL: a.Token, AuthStyle: style}}
}

func (r *Reach) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, within)
	return context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: &headers{r.HTTP.Transport, nil}, CheckRedirect: r.HTTP.CheckRedirect}), cancel
}

// Finish exchanges the code for tokens.
func (r *Reach) Finish(ctx context.Context, f Flow, code string) (Credentials, error) {
	ctx, cancel := r.context(ctx)
	defer cancel()
	t, err := f.config(f.Redirect).Exchange(ctx, code, oauth2.VerifierOption(f.Verifier), oauth2.SetAuthURLParam("resource", f.Resource))
	if err != nil {
		return Credentials{}, refused(err)
	}
	c := Credentials{Issuer: f.Issuer, Resource: f.Resource, App: f.App}
	c.take(t)
	return c, nil
}

// refused tells an authorization server that says no from one that cannot be reached.
func refused(err error) error {
	if e, ok := err.(*oauth2.RetrieveError); ok && e.Response != nil && e.Response.StatusCode < 500 {
		return fault.New(fault.Invalid, "validation_failed", "The authorization server refused the code").At("code", "is invalid or expired").Because(err)
	}
	return failed(err)
}

func (c *Credentials) take(t *oauth2.Token) {
	c.Access, c.ExpiresMS = t.AccessToken, 0
	if t.RefreshToken != "" {
		c.Refresh = t.RefreshToken
	}
	if !t.Expiry.IsZero() {
		c.ExpiresMS = t.Expiry.UnixMilli()
	}
}

// Due says whether the access token has to be renewed before it is given to anybody.
func (c *Credentials) Due(now time.Time) bool {
	return c.ExpiresMS > 0 && c.Refresh != "" && now.Add(ahead).UnixMilli() >= c.ExpiresMS
}

// Expired says whether the access token has ended.
func (c *Credentials) Expired(now time.Time) bool {
	return c.ExpiresMS > 0 && now.UnixMilli() >= c.ExpiresMS
}

// Renew gets a fresh access token.
func (r *Reach) Renew(ctx context.Context, c *Credentials) error {
	ctx, cancel := r.context(ctx)
	defer cancel()
	t, err := c.config("").TokenSource(ctx, &oauth2.Token{RefreshToken: c.Refresh}).Token()
	if err != nil {
		return refused(err)
	}
	c.take(t)
	return nil
}

// Provider is the host name of the authorization server.
func (c *Credentials) Provider() string {
	if u, err := url.Parse(c.Issuer); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return c.Issuer
}
