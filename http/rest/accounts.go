package rest

import (
	"crypto/subtle"
	"net/mail"
	"regexp"
	"strings"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/http/api"
	"troupe/http/auth"
	"troupe/http/route"
)

// Limits of logins (AUTH-5).
const (
	loginWindow   = 15 * 60 * 1000
	loginsPerMail = 10
	loginsPerAddr = 50
	verifyLife    = 10 * time.Minute
)

func (r *rest) accountRoutes() []route.Route {
	g := func(path, op string, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: "POST", Path: path, Op: op, Access: route.Guest, Body: route.Required, Handle: h}
	}
	j := func(method, path, op string, body route.Body, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: method, Path: path, Op: op, Access: route.JWT, Body: body, Handle: h}
	}
	return []route.Route{
		g("/auth/create_user", "createUser", r.createUser),
		g("/auth/login", "login", r.login),
		g("/auth/verify_user", "verifyUser", r.verifyUser),
		g("/auth/resend_verification", "resendVerification", r.resend),
		j("GET", "/auth/fetch_user", "fetchUser", route.None, r.fetchUser),
		j("GET", "/auth/fetch_user_quota", "fetchUserQuota", route.None, r.quota),
		j("POST", "/auth/platform_keys", "createPlatformKey", route.Required, r.createKey),
		j("GET", "/auth/platform_keys", "listPlatformKeys", route.None, r.listKeys),
		j("DELETE", "/auth/platform_keys/{keyUuid}", "deletePlatformKey", route.None, r.deleteKey),
		j("POST", "/auth/provider_keys/test", "testProviderKey", route.Required, r.testProvider),
		j("POST", "/auth/provider_keys", "createProviderKey", route.Required, r.createProvider),
		j("GET", "/auth/provider_keys", "listProviderKeys", route.None, r.listProviders),
		j("PUT", "/auth/provider_keys/{keyUuid}", "updateProviderKey", route.Required, r.updateProvider),
		j("DELETE", "/auth/provider_keys/{keyUuid}", "deleteProviderKey", route.None, r.deleteProvider),
	}
}

// readBody reads the members of a flat body.
func readBody(c *route.Call, read func(rd field.Reader)) error {
	doc, err := c.Doc()
	if err != nil {
		return err
	}
	errs := &field.Errors{}
	read(field.Read(doc, "", errs))
	return errs.Err()
}

// email reads an address, in lower case.
func email(rd field.Reader) string {
	s, ok := rd.String("email", field.Text{Min: 3, Max: 254})
	if !ok {
		return ""
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		rd.Fail("email", "must be an e-mail address")
	}
	return strings.ToLower(s)
}

func brief(a *account.Account) api.UserBrief {
	return api.UserBrief{UUID: string(a.ID), Email: a.Email, Verified: a.Verified}
}

func stamp(t time.Time) string { return agent.Stamp(t.UnixMilli()) }

func (r *rest) createUser(c *route.Call) (route.Response, error) {
	var addr, password string
	err := readBody(c, func(rd field.Reader) {
		rd.Require("email", "password")
		addr = email(rd)
		password, _ = rd.String("password", field.Text{Min: 8, Max: 200})
	})
	if err != nil {
		return route.Response{}, err
	}
	if r.Closed {
		return route.Response{}, fault.New(fault.Forbidden, "registration_closed", "Registration is closed")
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	a := account.Account{ID: account.ID(agent.NewUUID()), Email: addr, PasswordHash: auth.HashPassword(password), Verified: r.Mailer == nil, CreatedAt: now, UpdatedAt: now}
	out := api.UserCreated{UUID: string(a.ID), Email: addr, Message: "Account created.", Verified: a.Verified}
	token := r.armVerification(&a)
	if a, err = r.Store.CreateAccount(c.Ctx, a); err != nil {
		return route.Response{}, err
	}
	if !a.Verified {
		out.Message = "Account created. Check your inbox for the verification mail."
		if err := r.sendVerification(c, &a, token); err != nil {
			return route.Response{}, err
		}
	}
	return route.Created(out), nil
}

// armVerification gives an unverified account a fresh token; only its hash is kept.
func (r *rest) armVerification(a *account.Account) (token string) {
	if a.Verified {
		return ""
	}
	token = auth.Random(24)
	a.VerifyHash, a.VerifyUntil = r.Box.MAC("verification", token), time.Now().Add(verifyLife).UTC()
	return token
}

func (r *rest) sendVerification(c *route.Call, a *account.Account, token string) error {
	if err := r.Mailer.Send(c.Ctx, a.Email, "Verify your e-mail address", "Your verification token is "+token+". It holds for ten minutes."); err != nil {
		return fault.New(fault.Unavailable, "dependency_unavailable", "The verification mail could not be sent").Because(err)
	}
	return nil
}

func (r *rest) login(c *route.Call) (route.Response, error) {
	var addr, password string
	err := readBody(c, func(rd field.Reader) {
		rd.Require("email", "password")
		addr = email(rd)
		password, _ = rd.String("password", field.Text{Min: 1, Max: 200})
	})
	if err != nil {
		return route.Response{}, err
	}
	mailKey, addrKey := "login/"+addr, "login/"+c.RemoteIP().String()
	for key, limit := range map[string]int64{mailKey: loginsPerMail, addrKey: loginsPerAddr} {
		// Counted as failed until it has succeeded, so that parallel guesses cannot slip past the limit.
		if w, err := r.Store.Count(c.Ctx, key, limit, loginWindow); err == nil && w.Refused { // one that cannot be counted is let through (RATE-5)
			return route.Response{}, fault.New(fault.Limited, "too_many_attempts", "Too many failed attempts; try again later").After(time.Minute)
		}
	}
	a, err := r.Store.AccountByEmail(c.Ctx, addr)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return route.Response{}, err
	}
	if !auth.CheckPassword(a.PasswordHash, password) {
		return route.Response{}, fault.New(fault.Unauthenticated, "invalid_credentials", "Invalid e-mail or password")
	}
	_ = r.Store.Uncount(c.Ctx, mailKey)
	_ = r.Store.Uncount(c.Ctx, addrKey)
	if !a.Verified {
		return route.Response{}, fault.New(fault.Forbidden, "email_not_verified", "Email not verified. Please check your inbox for a verification email.")
	}
	token, err := r.Auth.Token(a)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.LoginResult{Token: token, User: brief(&a)}), nil
}

func (r *rest) verifyUser(c *route.Call) (route.Response, error) {
	var addr, token string
	err := readBody(c, func(rd field.Reader) {
		rd.Require("email", "verification_token")
		addr = email(rd)
		token, _ = rd.String("verification_token", field.Text{Min: 1, Max: 200})
	})
	if err != nil {
		return route.Response{}, err
	}
	a, err := r.Store.AccountByEmail(c.Ctx, addr)
	if err != nil {
		return route.Response{}, err
	}
	if a.Verified {
		return route.Response{}, fault.New(fault.Conflict, "already_verified", "The e-mail address is verified already")
	}
	w, err := r.Store.Count(c.Ctx, "verify/"+addr, loginsPerMail, loginWindow)
	if err == nil && w.Refused {
		return route.Response{}, fault.New(fault.Limited, "too_many_attempts", "Too many attempts; try again later").After(time.Minute)
	}
	got := r.Box.MAC("verification", token)
	if a.VerifyHash == "" || subtle.ConstantTimeCompare([]byte(got), []byte(a.VerifyHash)) != 1 || time.Now().After(a.VerifyUntil) {
		return route.Response{}, fault.New(fault.Invalid, "invalid_verification_token", "Wrong or expired verification token")
	}
	a.Verified, a.VerifyHash, a.VerifyUntil, a.UpdatedAt = true, "", time.Time{}, time.Now().UTC().Truncate(time.Millisecond)
	if err := r.Store.PutAccount(c.Ctx, a); err != nil {
		return route.Response{}, err
	}
	jwt, err := r.Auth.Token(a)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.VerifyUserResult{Message: "Email verified successfully", Verified: true, Token: jwt, User: brief(&a)}), nil
}

func (r *rest) resend(c *route.Call) (route.Response, error) {
	var addr string
	err := readBody(c, func(rd field.Reader) {
		rd.Require("email")
		addr = email(rd)
	})
	if err != nil {
		return route.Response{}, err
	}
	a, err := r.Store.AccountByEmail(c.Ctx, addr)
	if err != nil {
		return route.Response{}, err
	}
	if a.Verified {
		return route.OK(api.MessageResult{Message: "The e-mail address is verified already"}), nil
	}
	if w, err := r.Store.Count(c.Ctx, "resend/"+addr, 5, loginWindow); err == nil && w.Refused {
		return route.Response{}, fault.New(fault.Limited, "too_many_attempts", "Too many mails; try again later").After(time.Minute)
	}
	token := r.armVerification(&a)
	if err := r.Store.PutAccount(c.Ctx, a); err != nil {
		return route.Response{}, err
	}
	if r.Mailer != nil {
		if err := r.sendVerification(c, &a, token); err != nil {
			return route.Response{}, err
		}
	}
	return route.OK(api.MessageResult{Message: "Verification mail sent"}), nil
}

func (r *rest) fetchUser(c *route.Call) (route.Response, error) {
	a := &c.Caller.Account
	return route.OK(api.User{UUID: string(a.ID), Email: a.Email, EmailVerified: a.Verified, Verified: a.Verified, IsAdmin: a.Admin,
		CreatedAt: stamp(a.CreatedAt), UpdatedAt: stamp(a.UpdatedAt)}), nil
}

func (r *rest) quota(c *route.Call) (route.Response, error) {
	a := &c.Caller.Account
	n, err := r.Store.CountAgents(c.Ctx, a.ID)
	if err != nil {
		return route.Response{}, err
	}
	used, err := r.Store.Counted(c.Ctx, "rate/"+string(a.ID))
	if err != nil {
		return route.Response{}, err
	}
	out := api.UserQuota{Plan: "free"}
	limit := a.AgentLimit
	if limit == 0 {
		limit = r.AgentLimit
	}
	out.Quotas.Agents = api.QuotaFigure{Limit: int64(limit), Used: int64(n)}
	out.Quotas.Requests = api.QuotaFigure{Limit: r.RateLimit, Used: used}
	out.Features.AIAgents, out.Features.Spotlight = !a.NoAgents, true
	return route.OK(out), nil
}

func (r *rest) createKey(c *route.Call) (route.Response, error) {
	var name string
	err := readBody(c, func(rd field.Reader) {
		rd.Require("name")
		name = agent.ReadName(rd, "name").Value
	})
	if err != nil {
		return route.Response{}, err
	}
	key, rec := r.Auth.NewPlatformKey(c.Caller.Account.ID, name, account.ScopeAll)
	if err := r.Store.PutPlatformKey(c.Ctx, rec); err != nil {
		return route.Response{}, err
	}
	return route.Created(api.PlatformKeyCreated{UUID: rec.ID, Key: key, Name: name, CreatedAt: stamp(rec.CreatedAt), Status: string(rec.Status)}), nil
}

func (r *rest) listKeys(c *route.Call) (route.Response, error) {
	keys, err := r.Store.ListPlatformKeys(c.Ctx, c.Caller.Account.ID)
	if err != nil {
		return route.Response{}, err
	}
	out := []api.PlatformKey{}
	for _, k := range keys {
		row := api.PlatformKey{UUID: k.ID, Name: k.Name, Prefix: k.Prefix, CreatedAt: stamp(k.CreatedAt), Status: string(k.Status)}
		if !k.LastUsedAt.IsZero() {
			row.LastUsedAt = text(stamp(k.LastUsedAt))
		}
		out = append(out, row)
	}
	return route.OK(map[string]any{"keys": out}), nil
}

func keyID(c *route.Call) (string, error) {
	id, ok := agent.ParseUUID(c.Param("keyUuid"))
	if !ok {
		return "", fault.New(fault.NotFound, "not_found", "Key not found")
	}
	return id, nil
}

func deleted(what, id string) route.Response {
	return route.OK(api.DeletedByUUID{Message: what + " deleted successfully", UUID: id, DeletedAt: stamp(time.Now())})
}

func (r *rest) deleteKey(c *route.Call) (route.Response, error) {
	id, err := keyID(c)
	if err == nil {
		err = r.Store.DeletePlatformKey(c.Ctx, c.Caller.Account.ID, id)
	}
	if err != nil {
		return route.Response{}, err
	}
	return deleted("API key", id), nil
}

var antKey = regexp.MustCompile(`^sk-ant-\S+$`)

// providerInput is what the provider routes read.
type providerInput struct {
	key   agent.Opt[string]
	base  agent.Opt[string]
	label agent.Opt[string]
	state string
}

func (r *rest) readProvider(c *route.Call, create bool) (in providerInput, err error) {
	err = readBody(c, func(rd field.Reader) {
		if create {
			rd.Require("provider", "provider_api_key")
			rd.String("provider", field.Text{Enum: []string{"anthropic"}})
		}
		k, ok := rd.String("provider_api_key", field.Text{Min: 8, Max: 500, Pattern: antKey, Shape: "a key starting with sk-ant-"})
		in.key = agent.Opt[string]{Set: ok, Value: k}
		u, ok := agent.ReadURL(rd, "provider_base_url", r.Settings)
		in.base = agent.Opt[string]{Set: rd.Has("provider_base_url"), Null: !ok, Value: u}
		l, ok := rd.String("label", field.Text{Max: 100, Nullable: true})
		in.label = agent.Opt[string]{Set: rd.Has("label"), Null: !ok, Value: l}
		if !create {
			in.state, _ = rd.String("status", field.Text{Enum: []string{"active", "inactive", "revoked"}})
		}
	})
	return in, err
}

func (r *rest) testProvider(c *route.Call) (route.Response, error) {
	in, err := r.readProvider(c, true)
	if err != nil {
		return route.Response{}, err
	}
	out := api.ProviderKeyTestResult{Provider: "anthropic"}
	if err := r.Prober.Probe(c.Ctx, agent.NewSecret(in.key.Value), in.base.Value); err != nil {
		out.Error = fault.Of(err).Message
	} else {
		out.Valid, out.Message = true, "API key is valid"
	}
	return route.OK(out), nil
}

func providerBody(k *account.ProviderKey) api.ProviderKey {
	return api.ProviderKey{UUID: k.ID, Provider: k.Provider, Label: k.Label, Status: string(k.Status), CreatedAt: stamp(k.CreatedAt), UpdatedAt: stamp(k.UpdatedAt)}
}

func (r *rest) createProvider(c *route.Call) (route.Response, error) {
	in, err := r.readProvider(c, true)
	if err != nil {
		return route.Response{}, err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	k := account.ProviderKey{ID: agent.NewUUID(), Account: c.Caller.Account.ID, Provider: "anthropic", Status: account.KeyActive, CreatedAt: now, UpdatedAt: now}
	return r.putProvider(c, &k, in, 201)
}

func (r *rest) putProvider(c *route.Call, k *account.ProviderKey, in providerInput, status int) (route.Response, error) {
	if in.key.Set {
		sealed, err := r.Box.Seal(string(k.Account), "provider/"+k.ID, in.key.Value)
		if err != nil {
			return route.Response{}, err
		}
		k.Sealed = sealed
	}
	if in.base.Set {
		k.BaseURL = in.base.Value
	}
	if in.label.Set {
		k.Label = nil
		if !in.label.Null {
			k.Label = &in.label.Value
		}
	}
	if in.state != "" {
		k.Status = account.KeyStatus(in.state)
	}
	if err := r.Store.PutProviderKey(c.Ctx, *k); err != nil {
		return route.Response{}, err
	}
	return route.Response{Status: status, Body: providerBody(k)}, nil
}

func (r *rest) listProviders(c *route.Call) (route.Response, error) {
	keys, err := r.Store.ListProviderKeys(c.Ctx, c.Caller.Account.ID)
	if err != nil {
		return route.Response{}, err
	}
	out := []api.ProviderKey{}
	for i := range keys {
		out = append(out, providerBody(&keys[i]))
	}
	return route.OK(map[string]any{"keys": out}), nil
}

func (r *rest) updateProvider(c *route.Call) (route.Response, error) {
	id, err := keyID(c)
	if err != nil {
		return route.Response{}, err
	}
	keys, err := r.Store.ListProviderKeys(c.Ctx, c.Caller.Account.ID)
	if err != nil {
		return route.Response{}, err
	}
	for i := range keys {
		if keys[i].ID == id {
			in, err := r.readProvider(c, false)
			if err != nil {
				return route.Response{}, err
			}
			keys[i].UpdatedAt = time.Now().UTC().Truncate(time.Millisecond)
			return r.putProvider(c, &keys[i], in, 200)
		}
	}
	return route.Response{}, fault.New(fault.NotFound, "not_found", "Key not found")
}

func (r *rest) deleteProvider(c *route.Call) (route.Response, error) {
	id, err := keyID(c)
	if err == nil {
		err = r.Store.DeleteProviderKey(c.Ctx, c.Caller.Account.ID, id)
	}
	if err != nil {
		return route.Response{}, err
	}
	return deleted("Provider key", id), nil
}
