package agent

import (
	"context"
	"time"

	"troupe/actors/account"
)

// Fence is the right to write an agent's state: the member that holds the claim and the epoch of the claim (FENCE-1).
// Member compares as well as Epoch, so a store that lost its last claim in a failover cannot make two owners equal.
type Fence struct {
	Member string
	Epoch  int64
}

// RunnerGuard makes a write conditional on the runner that caused it: it must be the newest of the live incarnation (FENCE-4).
type RunnerGuard struct {
	Incarnation int64
	Epoch       int64 // 0: any epoch (attach)
}

// Figures are the fields of an agent that guarded scripts change beside its activation (FENCE-3). They are read with
// the snapshot, never part of it, and may have moved on the moment they are read.
type Figures struct {
	Account      account.ID
	Status       Status
	Balance      int64
	Used         int64 // output tokens charged since creation
	Messages     int64 // to and from the agent
	Pending      int64
	Interrupt    int64 // sequence of the newest message with queue mode interrupt
	Incarnation  int64 // of the live runtime key; 0: revoked
	RunnerEpoch  int64
	AttachedMS   int64
	LeaseMS      int64 // end of the runner's lease; 0: none
	HeartbeatMS  int64
	SubscribedMS int64 // when the runner's command stream was opened; 0: never under this epoch
	Execution    string
	RunnerInfo   string // version and endpoint as reported by attach, JSON
	CommandSeq   int64
	Context      int64     // input tokens of the newest model call of a turn that the gateway has counted; 0: none since the last compaction
	ContextOf    SessionID // and its session
	NowMS        int64     // the agent's time: the store's clock at reading, never below the last instant written (GEN-1)
	ClockMS      int64     // the store's clock at reading
	Version      int64     // of the snapshot at reading
	Epoch        int64     // of the present claim
	Member       string
	Deleted      bool
}

// RunnerLive says whether a runner is attached and its lease has not ended (LIFE-7).
func (f *Figures) RunnerLive() bool { return f.Incarnation > 0 && f.LeaseMS > f.NowMS }

// Snapshot is everything an activation starts from.
type Snapshot struct {
	Version int64
	Spec    []byte
	State   []byte
	Figures Figures
}

// Beginning is what an activation begins with.
type Beginning struct {
	Snapshot
	Queue   []Message
	Records [][]byte
}

// MarkPut replaces the mark of one message. Unread changes the unread counter of its conversation by that much.
type MarkPut struct {
	ID     MessageID
	Mark   Mark
	Party  string
	Unread int
}

// Append is a new message of the agent. Queue puts it at the end of the queue, as acceptance does; the others never wait there.
type Append struct {
	Queue bool
	ID    MessageID
	Body  Body
	Mark  Mark
}

// Kinds of records.
const (
	RecordSession    = "session"
	RecordTurn       = "turn"
	RecordFiles      = "files"
	RecordUpdate     = "update"
	RecordIntent     = "intent"
	RecordTrigger    = "trigger"
	RecordCompaction = "compaction"
	RecordTask       = "task"
	RecordSchedule   = "schedule"
	RecordExecution  = "execution" // its group is the schedule
	RecordDelivery   = "delivery"  // the log, by creation
	RecordOwed       = "owed"      // the outbox: pending deliveries, by their next attempt
	RecordPayload    = "payload"   // what a delivery sends
	RecordRelay      = "relay"     // replies owed to a chat network; its group is the binding
)

// RecordKinds lists them.
var RecordKinds = []string{RecordSession, RecordTurn, RecordFiles, RecordUpdate, RecordIntent, RecordTrigger, RecordCompaction, RecordTask, RecordSchedule, RecordDelivery, RecordOwed, RecordPayload}

// SessionRecords are the kinds whose groups are sessions.
var SessionRecords = []string{RecordTurn, RecordCompaction}

// Record is one keyed document of an agent, unique by kind and id. Score orders the records of a kind, or of a group of the
// kind where there is one; a nil Body deletes.
type Record struct {
	Kind  string
	Group string // "" for none; a turn's is its session
	ID    string
	Score int64
	Body  []byte
	// Known says that it is there, with this score: only its body is replaced.
	Known bool
}

// RecordPage selects records of one kind, or group of it, by score.
type RecordPage struct {
	Kind, Group   string
	From          int64 // the least score
	Offset, Limit int
	Desc          bool
}

// Command is one entry of the runner's command queue. Seq is given by the store.
type Command struct {
	Seq  int64
	Kind string
	Body []byte
}

// Event is one entry of the agent's event log, in the order of the commits (EVT-1). Data is compact JSON.
type Event struct {
	Type string
	Data []byte
}

// BalanceChange sets the balance, or adds to it. Bounds are checked in the same step (BAL-1).
type BalanceChange struct {
	Set    bool
	Amount int64
	Update bool // it came with an update of the agent
}

// Cause names the change in the event balance.changed.
func (b *BalanceChange) Cause() string {
	switch {
	case b.Update:
		return "update"
	case b.Set:
		return "set"
	}
	return "increment"
}

// Idempotency remembers the outcome of a call in the step of its effect (IDEM-3).
type Idempotency struct {
	Key    string // scope and caller's key, hashed
	Hash   string // of the body
	Result []byte // empty in a commit that changes the balance: the store puts {"previous","balance"} there
}

// Bytes is the stored result, nil for no record.
func (i *Idempotency) Bytes() []byte {
	if i == nil {
		return nil
	}
	return i.Result
}

// Commit is the unit of work of an activation: all of it is durable or nothing.
// It is refused as fault.Fenced when the fence is not the newest, as fault.Conflict "version" when the snapshot moved,
// as fault.Conflict stale_runner when Guard does not hold.
type Commit struct {
	Agent    ID
	Fence    Fence
	Version  int64 // of the snapshot that the decision was made on
	Guard    *RunnerGuard
	Spec     []byte            // nil: unchanged
	State    []byte            // nil: unchanged
	Head     map[string]string // fields of the head; "" removes
	Append   []Append
	Take     []MessageID         // leave the queue
	Requeue  map[MessageID]Place // return to the queue at their old place (LIFE-4)
	Marks    []MarkPut
	Records  []Record
	Commands []Command
	Confirm  []int64 // commands that are done
	Clear    bool    // drop every command (attach)
	Attach   int64   // lease in ms: raises the runner epoch and starts a lease
	Events   []Event
	Balance  *BalanceChange
	Idem     *Idempotency
	Due      int64 // next instant at which the agent must look at itself, by the store's clock; 0: none. Armed not later than the commit
	Rearm    bool  // the clock's entry becomes Due exactly, also if it is earlier now; 0 removes it. See Committed.Rearmed
}

// Fields of the head that activations set through Commit.Head. The store itself owns the others.
const (
	HeadStatus      = "status"
	HeadReason      = "reason" // why the status is error
	HeadCard        = "card"   // what lists show, JSON
	HeadTurn        = "turn"   // id of the running turn
	HeadLastTurn    = "lturn"  // id of the turn that ended last
	HeadTurnEnd     = "tend"   // and when, ms
	HeadSession     = "session"
	HeadCompaction  = "comp" // id of the compaction that runs
	HeadContext     = "ctx"  // Figures.Context; removed when the session was condensed
	HeadIncarnation = "inc"
	HeadLease       = "rlease"
	HeadRunner      = "rinfo"
	HeadExecution   = "rexec"
	HeadDeleted     = "deleted"
)

// Appended is what the store gave to a message of Commit.Append.
type Appended struct {
	Seq       int64
	CreatedMS int64
}

// Committed is the result of a commit.
type Committed struct {
	Version     int64
	NowMS       int64
	Appended    []Appended
	RunnerEpoch int64
	Previous    int64 // balance before and after, when it was changed
	Balance     int64
	Rearmed     bool // Commit.Rearm was done; a store whose clock lies elsewhere leaves it to Arm
	// Done is the stored result when Commit.Idem was there already: nothing was written.
	Done []byte
}

// Snapshots is how an activation reads and writes. Errors: fault.Unavailable, and those of Commit.
type Snapshots interface {
	Load(ctx context.Context, id ID) (Snapshot, error)
	// Begin is what an activation begins with: Load, Peek and, where p has a limit, the bodies of a page of records, in one round trip.
	Begin(ctx context.Context, id ID, limit int, p RecordPage) (Beginning, error)
	// Peek reads the figures and the first limit messages of the queue in one round trip.
	Peek(ctx context.Context, id ID, limit int) (Figures, []Message, error)
	Commit(ctx context.Context, c *Commit) (Committed, error)
	// Purge removes every row of a deleted agent; it is repeatable.
	Purge(ctx context.Context, id ID) error
}

// Creation is a whole new agent; storing it is idempotent by its id (IDEM-3).
type Creation struct {
	Spec    Spec
	State   State
	Balance int64
	Files   []byte // the record of initial files, nil for none
	Due     int64
}

// Creator stores new agents.
type Creator interface {
	Create(ctx context.Context, c *Creation) (nowMS int64, err error)
}

// Acceptance is a message to be accepted by whichever node took the call (MSG-1).
type Acceptance struct {
	Agent   ID
	Account account.ID // "" skips the tenancy check (runtime and platform senders)
	ID      MessageID
	Body    Body
	Idem    *Idempotency
	Limit   int // MSG-15
	// Trigger is the trigger that made it; its count and newest instant move in the same step (TRIG-8).
	Trigger string
}

// Accepted is the result: the message as stored, or the one stored earlier under the same idempotency key.
type Accepted struct {
	ID        MessageID
	Seq       int64
	CreatedMS int64
	Status    Status // of the agent
	Replayed  bool
}

// Inbox accepts messages without a fence. Errors: fault.NotFound, fault.Unavailable (agent_unavailable, store_unavailable),
// fault.Limited queue_full, fault.Mismatch. A task is refused by a paused agent as well (LEG-4).
type Inbox interface {
	Accept(ctx context.Context, a *Acceptance) (Accepted, error)
}

// Page selects messages (MSG-10). Filters apply before paging.
type Page struct {
	After, Before MessageID
	Desc          bool
	Limit         int
	Status        MessageStatus
	Channel       Channel
	Party         string
	Role          Role
}

// ConversationRow is one conversation, newest first (CONV-1).
type ConversationRow struct {
	Party   string
	Total   int64
	Unread  int64
	LastMS  int64
	Last    MessageID
	Channel Channel
}

// Messages are the reading side of the inbox; any node may ask.
type Messages interface {
	Message(ctx context.Context, id ID, msg MessageID) (Message, error)
	ByID(ctx context.Context, id ID, msgs []MessageID) ([]Message, error) // unknown ids are left out
	List(ctx context.Context, id ID, p Page) (msgs []Message, more bool, err error)
	Queue(ctx context.Context, id ID, limit int) ([]Message, error) // pending, in the order of QUE-6
	Conversations(ctx context.Context, id ID, beforeMS int64, limit int) (rows []ConversationRow, more bool, err error)
}

// Fired is how often a trigger was called with success, and when last, ms (TRIG-8).
type Fired struct {
	Count  int64
	LastMS int64
}

// Routes leads from an id that the outside knows to the agent that it belongs to. What the agent says of the id is the truth;
// a route without it leads nowhere.
type Routes interface {
	PutRoute(ctx context.Context, kind, id string, to ID) error
	Route(ctx context.Context, kind, id string) (to ID, err error) // "" when there is none
	// DropRoute removes it if it leads to that agent.
	DropRoute(ctx context.Context, kind, id string, of ID) error
}

// KindBot is the grain kind of bots; its identities are BotIDs.
const KindBot = "bot"

// BotUse is an agent that has a bot's credentials in its configuration.
type BotUse struct {
	Agent   ID
	Channel Channel
}

// Bots knows which agents use which bots. Bots are always on: every member asks for those that it should hold.
type Bots interface {
	PutBot(ctx context.Context, bot string, u BotUse) error
	DropBot(ctx context.Context, bot string, id ID) error
	Bot(ctx context.Context, bot string) ([]BotUse, error) // in the order of their ids
	// AllBots lists the ids of all bots. One without a use may be among them for a while.
	AllBots(ctx context.Context) ([]string, error)
}

// Chats sends replies to chat networks.
type Chats interface {
	// Parts are the texts that a reply is sent as, in order; the same for every call.
	Parts(c Channel, markdown string) []string
	// Repeatable says whether the network recognises a part that is sent again.
	Repeatable(c Channel) bool
	// Send sends one part through the bot of a binding; its channel's present one, which may have changed.
	Send(ctx context.Context, p Part) (fate RelayFate, after time.Duration)
	// Types says whether the network shows that somebody is writing.
	Types(c Channel) bool
	// Type shows it to the far end of a binding, for some seconds. It must not block, and may be lost.
	Type(p Part)
}

// Part is one part of a reply to be sent.
type Part struct {
	Agent   ID        `json:"agent"`
	Bot     string    `json:"bot"`
	Binding Binding   `json:"binding"`
	Message MessageID `json:"message"`
	Number  int       `json:"number"` // from 0
	Text    string    `json:"text"`
}

// Records are the reading side of Commit.Records and of the command queue.
type Records interface {
	Record(ctx context.Context, id ID, kind, rec string) ([]byte, error) // nil when there is none
	Commands(ctx context.Context, id ID, after int64) ([]Command, error)
	Replay(ctx context.Context, id ID, key, hash string) (*Idempotency, error) // nil when there is none
	// Recorded returns one page of records and how many there are from the least score on.
	Recorded(ctx context.Context, id ID, p RecordPage) (bodies [][]byte, total int, err error)
	// Fired returns the counts of triggers, in their order.
	Fired(ctx context.Context, id ID, triggers ...string) ([]Fired, error)
	// Usage returns the sums of scopes, in their order: t/TURN, s/SESSION, d/DAY (UTC), all, or reported.
	Usage(ctx context.Context, id ID, scopes ...string) ([]Usage, error)
}

// EventAt is the position of an event: the instant of its cause and its number, both growing.
type EventAt struct{ MS, Seq int64 }

// EventRow is one event as it was stored.
type EventRow struct {
	At EventAt
	Event
}

// Retention of events (EVT-4).
const (
	MaxEvents   = 10000
	MaxEventAge = 24 * time.Hour
)

// EventLog is the reading side of Commit.Events and of the events of acceptances and charges.
type EventLog interface {
	// Events returns up to limit retained events after a position, oldest first.
	Events(ctx context.Context, id ID, after EventAt, limit int) ([]EventRow, error)
	// EventBounds returns the oldest retained event, zero for none, and the position after which nothing has happened yet.
	// Errors: fault.NotFound.
	EventBounds(ctx context.Context, id ID) (oldest, newest EventAt, err error)
}

// Usage is a sum of model calls.
type Usage struct {
	Input, Output, CacheWrite, CacheRead, Requests int64
}

// Add returns the sum of two usages.
func (u Usage) Add(o Usage) Usage {
	return Usage{u.Input + o.Input, u.Output + o.Output, u.CacheWrite + o.CacheWrite, u.CacheRead + o.CacheRead, u.Requests + o.Requests}
}

// Reservation asks for output tokens before a model call (LLM-4).
type Reservation struct {
	Agent       ID
	Call        string // id of the call
	Incarnation int64
	RunnerEpoch int64  // 0: not given
	Turn        TurnID // "": the running or just ended one
	Want        int64
	Floor       int64 // the least that is of any use (a thinking budget); below it nothing is available
	Overdraft   int64
	Model       string
}

// Granted is a reservation that was made. Session and Turn say to what the call is attributed.
type Granted struct {
	Tokens  int64
	Turn    TurnID
	Session SessionID
	Balance int64
}

// Settlement ends a reservation with what the call really used. It is idempotent by the call's id.
type Settlement struct {
	Agent     ID
	Call      string
	Usage     Usage
	Model     string
	Estimated bool
	Loop      bool // a call of the model loop, which names its turn: what it read is the session's context (COMP-1)
}

// Ledger is the token balance. Every method is one guarded script without a fence (FENCE-3).
// Reserve's errors: fault.Unauthenticated (revoked key), fault.Forbidden (no turn, stale turn or runner),
// fault.Limited (others hold the balance), fault.Exhausted.
type Ledger interface {
	Reserve(ctx context.Context, r *Reservation) (Granted, error)
	Renew(ctx context.Context, id ID, call string, soFar int64) error
	Settle(ctx context.Context, s *Settlement) (balance int64, err error)
	// Report takes a runner's own count of a call that bypassed the gateway (LLM-9). A report that is counted is charged, any
	// other is summed for comparison; repeats change nothing. Errors: fault.Unauthenticated, fault.Conflict (stale_runner, stale_turn).
	Report(ctx context.Context, r *Report) (counted bool, balance int64, err error)
}

// Report is a runner's count of one model call.
type Report struct {
	Agent ID
	ID    string
	Guard RunnerGuard
	Turn  TurnID // "": none
	Usage Usage
	Count bool
}

// Heartbeat is the lease renewal of a runner (RUN-2).
type Heartbeat struct {
	Agent     ID
	Guard     RunnerGuard
	LeaseMS   int64
	Execution string
	Subscribe bool // marks the command stream as open instead
}

// Beats renews runner leases without a fence. Errors: fault.Unauthenticated, fault.Conflict stale_runner.
type Beats interface {
	Beat(ctx context.Context, b *Heartbeat) (Figures, TurnID, error)
}

// Alarm is one entry of the clock: an agent that must look at itself. Stamp identifies the entry as it was read.
type Alarm struct {
	ID      ID
	Pending bool // from the pending set of invariant 4, else a due instant
	Stamp   int64
}

// KindClock is the grain kind of the clock; its identities are the shards, "0" and up.
const KindClock = "clock"

// Clock is the durable alarm clock and the pending set of invariant 4, in shards that are owned one by one (FENCE-8).
// Entries are hints; the agent's state is the truth.
type Clock interface {
	// Shards is how many there are. It never changes for a store.
	Shards() int
	// Sweep returns due alarms of a shard, and pending entries older than five seconds, at most limit of each. What is
	// handed out comes again, due alarms after two seconds and pending entries after five, unless it is armed anew or cleared.
	// Next is in how many ms the shard's next alarm is due, as far as it is armed by now; negative: there is none.
	// Errors: fault.Fenced when f is not the shard's newest claim.
	Sweep(ctx context.Context, shard int, f Fence, limit int) (due []Alarm, next int64, err error)
	// Clear removes entries of a shard that have not changed since they were read. Errors: fault.Fenced.
	Clear(ctx context.Context, shard int, f Fence, alarms []Alarm) error
}

// Alarms sets the alarm clock.
type Alarms interface {
	// Arm sets the agent's due instant exactly; 0 removes it.
	Arm(ctx context.Context, id ID, dueMS int64) error
}

// Watcher tells of changes by hints: a lost or repeated one changes nothing.
type Watcher interface {
	// Watch calls notify, which must not block, whenever something about the agent was committed, until cancel is called.
	Watch(id ID, notify func()) (cancel func())
}

// Workspace reaches the file server of a runner.
type Workspace interface {
	// Apply applies a file change whole or not at all (FILE-1). It is repeatable by its id: a change that was applied is not
	// applied again. Errors: fault.Invalid, fault.Conflict (file_exists), fault.Forbidden, fault.Full are final; fault.Unavailable is not.
	Apply(ctx context.Context, endpoint string, key Secret, id string, change FileChange) (DiskUsage, error)
}

// Courier carries webhook deliveries to their receivers.
type Courier interface {
	// Send makes one attempt (OUT-7), signed with every secret given. It waits for room as long as an attempt may take, AttemptTimeout; whatever happens is a result.
	Send(ctx context.Context, o *Outgoing, secrets []Secret) Attempt
}

// PodSpec is what a runtime needs to start one incarnation.
type PodSpec struct {
	Agent       ID
	Incarnation int64
	Name        string
	Env         map[string]Secret // complete environment as of POD-3
	SizeBytes   int64
	Ephemeral   bool // memory is emptied when the pod starts (CFG-11)
}

// PodPhase is what a runtime observes of one incarnation.
type PodPhase string

// The phases a runtime reports.
const (
	PhaseNone     PodPhase = "none"     // nothing of the agent exists that could run
	PhaseStarting PodPhase = "starting" // created, not running yet
	PhaseWaiting  PodPhase = "waiting"  // wants to start, no room
	PhaseUp       PodPhase = "up"       // running
	PhaseGone     PodPhase = "gone"     // ended; Reason says why
)

// Observation is the present state of an agent's pod.
type Observation struct {
	Agent       ID
	Incarnation int64
	Phase       PodPhase
	Name        string
	Node        string
	Reason      string
}

// Runtime is where agents run. Every method is repeatable; Start returns once the pod is created, not when it attached.
type Runtime interface {
	// Start makes sure that exactly this incarnation runs; an older one must be gone first (POD-1), else fault.Conflict.
	Start(ctx context.Context, spec PodSpec) error
	// Stop ends the pod: it asks, waits for grace, then kills. It returns when the pod is confirmed gone.
	// A pod of a later incarnation is left alone; incarnation 0 means any.
	Stop(ctx context.Context, id ID, incarnation int64, grace time.Duration) error
	// Delete stops the pod and removes its volume.
	Delete(ctx context.Context, id ID) error
	// Observe returns what is there now.
	Observe(ctx context.Context, id ID) (Observation, error)
	// Resizable says whether the agent's volume may grow; fault.Invalid pvc_expansion_unsupported if not.
	Resizable(ctx context.Context, id ID) error
	// Resize makes the agent's volume at least that big, if there is one. It returns once that is asked for.
	Resize(ctx context.Context, id ID, bytes int64) error
	// Serves says whether the file server of an incarnation may be where its runner says it is. It answers from memory.
	Serves(id ID, incarnation int64, endpoint string) bool
	// Idle tells the runtime that the agent's pod is warm but unused since then (zero: it is in use), so that it may be given up for another.
	Idle(id ID, since time.Time)
}
