// Package discord is the adapter of Discord bots (§20): direct messages by the gateway, replies by the REST API, with discordgo.
//
// The gateway acknowledges nothing, so an event that cannot be stored yet is kept and tried until the connection ends. A new session gets no
// replay: what was written in between is read from the conversations of linked accounts (CHAN-13). The library would notice a dead connection
// after five lost heartbeats; this room looks itself.
package discord

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/bwmarrin/discordgo"
	"github.com/gorilla/websocket"

	"troupe/channels"
)

const (
	maxText     = 2000             // https://discord.com/developers/docs/resources/message#create-message
	deadAfter   = 55 * time.Second // without an acknowledged heartbeat; Discord's interval is 41 s
	lookEvery   = 5 * time.Second
	openTimeout = 20 * time.Second
	retryPause  = time.Second
	maxResumes  = 5   // in a row before the connection is made anew by the bot
	maxQueued   = 512 // events that wait to be stored
	gapPage     = 100
	nonceLength = 25 // CHAN-10
	maxBusy     = 16 // senders whose events are being stored at once
	stuckAfter  = 2 * time.Second
	closeResume = 4000 // a close after which a session can be resumed
)

// IdentifyPause is the least time between two new sessions: https://discord.com/developers/docs/events/gateway#rate-limiting.
const IdentifyPause = 5 * time.Second

// Adapter is the channels.Network of Discord.
type Adapter struct {
	Base   string // of the REST API, with a slash at the end; "": Discord's
	Client *http.Client
	// Conversations lists those of a bot, so that a gap can be read.
	Conversations func(ctx context.Context, bot string) ([]channels.Conversation, error)
	Log           *slog.Logger
	Dead          time.Duration // without an acknowledged heartbeat; 0: deadAfter
	Open          time.Duration // until a session has begun; 0: openTimeout
}

// Repeatable implements channels.Repeatable: a nonce is enforced.
func (*Adapter) Repeatable() {}

// Render implements channels.Network: Discord reads Markdown.
func (a *Adapter) Render(markdown string) (out []string) {
	for _, p := range channels.Split(markdown, maxText, channels.Units) {
		out = append(out, p.Text())
	}
	return out
}

// redirect leads a session to another server. The gateway follows: its address comes from there.
type redirect struct {
	base string
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t redirect) RoundTrip(r *http.Request) (*http.Response, error) {
	u, err := url.Parse(t.base + r.URL.String()[len(discordgo.EndpointAPI):])
	if err != nil {
		return nil, errors.New("the address of the REST API cannot be read")
	}
	r = r.Clone(r.Context())
	r.URL, r.Host = u, u.Host
	return t.next.RoundTrip(r)
}

func (a *Adapter) session(c channels.Credentials) (*discordgo.Session, error) {
	s, err := discordgo.New("Bot " + c.Reveal())
	if err != nil {
		return nil, errors.New("the token cannot be used")
	}
	client := *a.Client
	if a.Base != "" {
		next := client.Transport
		if next == nil {
			next = http.DefaultTransport
		}
		client.Transport = redirect{a.Base, next}
	}
	s.Client, s.ShouldRetryOnRateLimit, s.MaxRestRetries, s.ShouldReconnectOnError, s.StateEnabled, s.SyncEvents = &client, false, 0, false, false, true
	s.LogLevel = -1
	return s, nil
}

// outgoing is a message with its nonce, which the library's shape lacks.
type outgoing struct {
	Content  string   `json:"content"`
	Nonce    string   `json:"nonce,omitempty"`
	Enforce  bool     `json:"enforce_nonce,omitempty"`
	Mentions struct{} `json:"allowed_mentions"`
}

// Send implements channels.Network.
func (a *Adapter) Send(ctx context.Context, c channels.Credentials, to channels.Address, text, key string) error {
	s, err := a.session(c)
	if err != nil {
		return channels.Failed(channels.Refused, 0, "%v", err)
	}
	chat := to.Chat
	if chat == "" {
		ch, err := s.UserChannelCreate(to.User, discordgo.WithContext(ctx))
		if err != nil {
			if known := meaning(err); known != nil {
				return known
			}
			return channels.Failed(channels.Later, 0, "Discord cannot be reached") // nothing was sent yet
		}
		chat = ch.ID
	}
	out := outgoing{Content: text}
	if key != "" {
		sum := sha256.Sum256([]byte(key))
		out.Nonce, out.Enforce = hex.EncodeToString(sum[:])[:nonceLength], true
	}
	at := discordgo.EndpointChannelMessages(chat)
	if _, err = s.RequestWithBucketID("POST", at, &out, at, discordgo.WithContext(ctx)); err == nil {
		return nil
	}
	if known := meaning(err); known != nil {
		return known
	}
	return errors.New("the connection to Discord failed")
}

// Typing implements channels.Typer.
func (a *Adapter) Typing(ctx context.Context, c channels.Credentials, to channels.Address) error {
	if to.Chat == "" {
		return nil // the first reply opens it
	}
	s, err := a.session(c)
	if err == nil && s.ChannelTyping(to.Chat, discordgo.WithContext(ctx)) != nil {
		err = errors.New("typing was not shown by Discord")
	}
	return err
}

// meaning is what an error of the REST API says; nil: nobody knows.
func meaning(err error) error {
	var limited *discordgo.RateLimitError
	var rest *discordgo.RESTError
	switch {
	case errors.As(err, &limited):
		return channels.Failed(channels.Later, limited.RetryAfter, "Discord limits this bot")
	case errors.As(err, &rest) && rest.Response != nil:
		code := rest.Response.StatusCode
		if code == http.StatusUnauthorized || code == http.StatusTooManyRequests || code >= 500 {
			return channels.Failed(channels.Later, 0, "Discord answered %d", code)
		}
		return channels.Failed(channels.Refused, 0, "Discord answered %d", code)
	}
	if f, after := channels.FateOf(err); f != 0 {
		return channels.Failed(f, after, "Discord cannot be reached")
	}
	return nil
}

// Connect implements channels.Connector. A connection that is lost is resumed a few times; then it is the bot's turn. Only a session can be
// resumed: where none begins, Connect ends, and identifying again is the bot's turn too.
func (a *Adapter) Connect(ctx context.Context, c channels.Credentials, b channels.Bot, take channels.Take) error {
	s, err := a.session(c)
	if err != nil {
		return err
	}
	s.Identify.Intents = discordgo.IntentsDirectMessages | discordgo.IntentMessageContent
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	down, events, ready := make(chan struct{}, 1), make(chan *discordgo.Message, maxQueued), make(chan struct{}, 1)
	s.AddHandler(func(_ *discordgo.Session, m *discordgo.MessageCreate) {
		select {
		case events <- m.Message:
		default: // the reader must not wait: it reads heartbeats too. What is dropped is in a gap that is read
			signal(ready)
		}
	})
	s.AddHandler(func(*discordgo.Session, *discordgo.Disconnect) { signal(down) })
	s.AddHandler(func(*discordgo.Session, *discordgo.Ready) { signal(ready) })
	conns := &dialed{}
	s.Dialer = &websocket.Dialer{HandshakeTimeout: openTimeout, NetDialContext: conns.dial, Proxy: http.ProxyFromEnvironment}
	defer context.AfterFunc(ctx, conns.close)()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { // ends with ctx
		defer wg.Done()
		a.store(ctx, s, c, b, events, ready, take)
	}()
	defer wg.Wait()
	defer cancel()
	for failed, session := 0, false; ctx.Err() == nil && failed < maxResumes; {
		began := time.Now()
		select {
		case <-down: // said of an earlier connection
		default:
		}
		if err = a.open(ctx, s, conns); err == nil {
			session = true
			err = a.watch(ctx, s, down)
			if ctx.Err() == nil {
				conns.close()                    // below the library, which would say good-bye and wait
				_ = s.CloseWithCode(closeResume) // a normal close would end the session
			} else {
				_ = s.Close()
			}
		} else if !session || errors.Is(err, errStuck) || channels.IsHopeless(err) {
			return err
		}
		if failed++; time.Since(began) > 2*time.Minute {
			failed = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(failed) * retryPause):
		}
	}
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dialed keeps the newest connection, so that it can be closed while the library waits for something on it.
type dialed struct {
	mu   sync.Mutex
	conn net.Conn
	shut bool
}

func (d *dialed) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: openTimeout}).DialContext(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && d.shut {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	d.conn = conn
	return conn, err
}

func (d *dialed) close() { d.set(true) }

// set closes the present connection, and refuses or allows new ones.
func (d *dialed) set(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut = shut; d.conn != nil {
		_ = d.conn.Close()
	}
}

// errStuck says that the library does not come back. Its session is given up with its goroutine: a request to reconnect that comes before the
// first event has it wait for a lock that it holds itself.
var errStuck = errors.New("the gateway of Discord did not open in time")

// open connects and identifies or resumes; the library knows no deadline for that.
func (a *Adapter) open(ctx context.Context, s *discordgo.Session, conns *dialed) error {
	conns.set(false)
	opened := make(chan error, 1)
	go func() { opened <- s.Open() }() // ends when its connection is closed, unless it is stuck
	late := time.NewTimer(cmp.Or(a.Open, openTimeout))
	defer late.Stop()
	var err error
	select {
	case err = <-opened:
	case <-late.C:
		conns.close()
		err = wait(opened)
	case <-ctx.Done():
		conns.close()
		err = wait(opened)
	}
	var closed *websocket.CloseError
	switch {
	case ctx.Err() != nil:
		if err == nil {
			_ = s.Close()
		}
		return errStuck
	case errors.As(err, &closed) && hopeless[closed.Code]:
		return channels.Hopeless("Discord closed the connection with code %d: the bot's settings at Discord have to be changed", closed.Code)
	case err != nil && !errors.Is(err, errStuck):
		return errors.New("the gateway of Discord did not open") // the cause may hold addresses with tokens
	}
	return err
}

// wait gives the library a moment to notice that its connection is closed.
func wait(opened chan error) error {
	t := time.NewTimer(stuckAfter)
	defer t.Stop()
	select {
	case err := <-opened:
		return err
	case <-t.C:
		return errStuck
	}
}

// hopeless are closes that come again with the same settings: https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
var hopeless = map[int]bool{4004: true, 4010: true, 4011: true, 4012: true, 4013: true, 4014: true}

// watch returns when the connection is over, or dead.
func (a *Adapter) watch(ctx context.Context, s *discordgo.Session, down chan struct{}) error {
	dead := cmp.Or(a.Dead, deadAfter)
	t := time.NewTicker(min(lookEvery, dead))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-down:
			return errors.New("the gateway of Discord closed the connection")
		case <-t.C:
			s.RLock()
			last := s.LastHeartbeatAck
			s.RUnlock()
			if time.Since(last) > dead {
				return errors.New("the gateway of Discord does not answer")
			}
		}
	}
}

// store takes events, those of one conversation in their order. A new session begins with what was written before it.
func (a *Adapter) store(ctx context.Context, s *discordgo.Session, c channels.Credentials, b channels.Bot, events chan *discordgo.Message, ready chan struct{}, take channels.Take) {
	lanes := channels.NewLanes(maxBusy, maxQueued, a.Log)
	defer lanes.Wait()
	var m *discordgo.Message
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			m = nil
		case m = <-events:
			select {
			case <-ready: // it is of the new session
			default:
				a.enter(ctx, lanes, c, m, take)
				continue
			}
		}
		lanes.Gaps(ctx, b.ID, a.Conversations, a.Log, func(conv channels.Conversation) { a.gap(ctx, s, c, conv, take) })
		if m != nil {
			a.enter(ctx, lanes, c, m, take)
		}
	}
}

func (a *Adapter) enter(ctx context.Context, l *channels.Lanes, c channels.Credentials, m *discordgo.Message, take channels.Take) {
	if m != nil && m.Author != nil {
		l.Add(ctx, m.Author.ID, func() { a.one(ctx, c, m, take) })
	}
}

// one takes one message until it is stored.
func (a *Adapter) one(ctx context.Context, c channels.Credentials, m *discordgo.Message, take channels.Take) {
	if m.GuildID != "" || m.Author == nil || m.Author.Bot || m.Author.System || m.Type != discordgo.MessageTypeDefault && m.Type != discordgo.MessageTypeReply { // CHAN-4
		return
	}
	at, err := discordgo.SnowflakeTimestamp(m.ID)
	if err != nil {
		return
	}
	e := channels.Event{ID: m.ID, At: at, User: m.Author.ID, Name: m.Author.Username, Chat: m.ChannelID, Text: text(m)}
	for ctx.Err() == nil {
		answer, err := take(ctx, e)
		if err == nil {
			if answer != "" {
				call, cancel := context.WithTimeout(ctx, openTimeout)
				_ = a.Send(call, c, channels.Address{Chat: m.ChannelID}, answer, "answer/"+m.ID) // a hint that is lost comes with the next message
				cancel()
			}
			return
		}
		channels.Pause(ctx, retryPause)
	}
}

// text is the message with a line for everything that is no text (CHAN-5).
func text(m *discordgo.Message) string {
	out := m.Content
	line := func(s string) {
		if out != "" {
			out += "\n"
		}
		out += s
	}
	for _, x := range m.Attachments {
		line(channels.Attachment("file", x.Filename))
	}
	for _, x := range m.StickerItems {
		line(channels.Attachment("sticker", x.Name))
	}
	return out
}

// gap reads one conversation from its newest stored message on. What is stored already is known by its id.
func (a *Adapter) gap(ctx context.Context, s *discordgo.Session, c channels.Credentials, conv channels.Conversation, take channels.Take) {
	last := snowflake(conv.Since.Add(-channels.Skew)) // what was taken may be of an earlier binding
	for _, id := range conv.Taken {
		last = later(last, id)
	}
	for tries := 1; ctx.Err() == nil; tries++ {
		chat, err := conv.Chat, error(nil)
		if chat == "" { // the binding has moved to this bot
			var ch *discordgo.Channel
			if ch, err = s.UserChannelCreate(conv.User, discordgo.WithContext(ctx)); err == nil {
				chat = ch.ID
			}
		}
		var msgs []*discordgo.Message
		if err == nil {
			msgs, err = s.ChannelMessages(chat, gapPage, "", last, "", discordgo.WithContext(ctx))
		}
		if err != nil {
			var known *channels.Error
			if errors.As(meaning(err), &known) && known.Fate == channels.Refused {
				a.Log.Warn("a conversation cannot be read", "user", conv.User, "err", known)
				return
			}
			_, after := channels.FateOf(meaning(err))
			channels.Pause(ctx, min(max(after, time.Duration(tries)*retryPause), time.Minute))
			continue
		}
		tries = 0
		for i := len(msgs) - 1; i >= 0; i-- { // newest first, as Discord lists them
			if msgs[i] == nil {
				continue
			}
			a.one(ctx, c, msgs[i], take)
			last = msgs[i].ID
		}
		if len(msgs) < gapPage {
			return
		}
	}
}

// snowflake is the least id of a message that was sent at an instant.
func snowflake(at time.Time) string {
	const epoch = 1420070400000
	return fmt.Sprint(max(at.UnixMilli()-epoch, 0) << 22)
}

// later is the later of two message ids.
func later(a, b string) string {
	if len(b) > len(a) || len(b) == len(a) && b > a {
		return b
	}
	return a
}

// Quiet keeps the library from logging: its logger is a global of the process, and prints addresses.
func Quiet() { discordgo.Logger = func(int, int, string, ...any) {} }
