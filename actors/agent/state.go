package agent

import "encoding/json"

// State is what the runtime is doing with an agent. It is the snapshot of the activation: small, rewritten with every
// commit. What the owner configured is in Spec, what scripts count in Figures.
type State struct {
	Status         Status               `json:"status"`
	Reason         string               `json:"reason,omitempty"` // why the status is error
	Pod            Pod                  `json:"pod"`
	Session        *Session             `json:"session,omitempty"` // the open one
	Turn           *Turn                `json:"turn,omitempty"`    // the running one
	TurnCount      int                  `json:"turn_count,omitempty"`
	ActiveMS       int64                `json:"active_ms,omitempty"`       // what the warmth window counts from (POD-4)
	HoldMS         int64                `json:"hold_ms,omitempty"`         // until then a call in the workspace may be running
	FilesDue       bool                 `json:"files_due,omitempty"`       // initial files are not in the workspace yet (POD-9)
	SlotMS         int64                `json:"slot_ms,omitempty"`         // the earliest slot of all schedules (§21)
	Owed           int64                `json:"owed,omitempty"`            // pending webhook deliveries (§23)
	NotifyMS       int64                `json:"notify_ms,omitempty"`       // when the next of them is due
	Bindings       []Binding            `json:"bindings,omitempty"`        // linked chat accounts (§20)
	Codes          map[Channel]LinkCode `json:"codes,omitempty"`           // open link codes
	Bots           map[Channel]string   `json:"bots,omitempty"`            // bots under which the cluster knows the agent
	Relays         []RelayHead          `json:"relays,omitempty"`          // bindings that replies are owed to
	RelaySeq       int64                `json:"relay_seq,omitempty"`       // orders them
	Sweeping       bool                 `json:"sweeping,omitempty"`        // a URL was removed while deliveries were pending (OUT-10)
	HookGen        map[string]int       `json:"hook_gen,omitempty"`        // by event: how often its URL was removed
	Resize         int64                `json:"resize,omitempty"`          // bytes that the volume is to grow to (CFG-8)
	Update         string               `json:"update,omitempty"`          // id of a file change that is being applied (FILE-1)
	Disk           DiskUsage            `json:"disk"`                      // last report of the runner (RUN-13)
	Intents        []OpenIntent         `json:"intents,omitempty"`         // messages to other agents on their way (MSG-14)
	Compaction     *Compacting          `json:"compaction,omitempty"`      // the one that runs (§14)
	Deleting       bool                 `json:"deleting,omitempty"`        // LIFE-6 has begun
	Crashes        int                  `json:"crashes,omitempty"`         // activations lost to panics since the last good turn
	LastError      string               `json:"last_error,omitempty"`      // newest non-fatal report of the runner (LIFE-9)
	LastTurn       TurnID               `json:"last_turn,omitempty"`       // the turn that ended last
	LastResult     Outcome              `json:"last_result,omitempty"`     // and how
	LastForced     bool                 `json:"last_forced,omitempty"`     // its outcome was decided by a cancel
	LastCompaction string               `json:"last_compaction,omitempty"` // the one that ended last, for repeats of its report
	LastCondensed  string               `json:"last_condensed,omitempty"`  // and the transcript it led to, "" if it failed
	LastReply      []MessageID          `json:"last_reply,omitempty"`      // and its replies, for repeats of the same end (FENCE-5)
}

// DiskUsage is the size of the workspace.
type DiskUsage struct {
	Files      int64 `json:"files"`
	Bytes      int64 `json:"bytes"`
	ModifiedMS int64 `json:"modified_ms,omitempty"`
}

// Pod is what is wanted of the pod and how far that has come. Phase moves none → starting → up → stopping → none.
type Pod struct {
	Want        bool   `json:"want"`
	Phase       Phase  `json:"phase,omitempty"`
	Incarnation int64  `json:"incarnation"`
	Name        string `json:"name,omitempty"`
	Node        string `json:"node,omitempty"`
	StartedMS   int64  `json:"started_ms,omitempty"` // when this incarnation was asked for
	Failed      int    `json:"failed,omitempty"`     // starts in a row that did not attach (POD-8)
	RetryMS     int64  `json:"retry_ms,omitempty"`   // next start not before
	Quick       int    `json:"quick,omitempty"`      // pods in a row that ended soon after their start
	Why         string `json:"why,omitempty"`        // of the last change, for events
	Replace     bool   `json:"replace,omitempty"`    // a new pod is due after the running turn (CFG-7)
	Waiting     bool   `json:"waiting,omitempty"`    // wants to start, no room on the node
	Note        string `json:"note,omitempty"`       // what keeps it from running, as the runtime says
}

// Phase is how far the present incarnation has come.
type Phase string

// The pod phases of the activation. They are its own; the owner sees PodStatus.
const (
	PodAbsent   Phase = ""         // nothing runs
	PodStarting Phase = "starting" // asked for, no runner attached yet
	PodUp       Phase = "up"       // a runner has attached
	PodStopping Phase = "stopping" // must be confirmed gone before the next one (POD-1)
)

// Session is one conversation context.
type Session struct {
	ID          SessionID   `json:"id"`
	Mode        SessionMode `json:"mode"`
	Trigger     Trigger     `json:"trigger"`
	StartedMS   int64       `json:"started_ms"`
	EndedMS     int64       `json:"ended_ms,omitempty"`
	EndReason   string      `json:"end_reason,omitempty"`
	Turns       int         `json:"turns"`
	Compactions int         `json:"compactions"`
	Restarts    int         `json:"restarts"`
	Task        MessageID   `json:"task,omitempty"`       // whose input it is kept open for (LEG-6)
	SDK         string      `json:"sdk,omitempty"`        // id of the runner's transcript
	Context     int64       `json:"context,omitempty"`    // input tokens of the last model call
	CompactAt   int64       `json:"compact_at,omitempty"` // not condensed below that many
	Incarnation int64       `json:"incarnation"`          // pod that last worked on it
	Epoch       int64       `json:"epoch"`                // runner epoch that last worked on it
}

// Trigger is what made a session or turn start.
type Trigger struct {
	Type    string    `json:"type"` // message, schedule, trigger, agent, task
	UUID    string    `json:"uuid,omitempty"`
	Message MessageID `json:"message,omitempty"`
}

// Turn is one run of the session from a prompt to its end. It is both the running turn in State and the turn's record.
type Turn struct {
	ID          TurnID                  `json:"id"`
	Number      int                     `json:"number"`
	Session     SessionID               `json:"session"`
	Trigger     Trigger                 `json:"trigger"`
	Attempt     int                     `json:"attempt"`
	Hook        Hook                    `json:"hook"`
	Start       string                  `json:"start"` // how the runner gets the session: new, continue, resume
	StartedMS   int64                   `json:"started_ms"`
	SentMS      int64                   `json:"sent_ms"` // when this attempt was given to a runner; 0: it waits for one
	DeadlineMS  int64                   `json:"deadline_ms"`
	EndedMS     int64                   `json:"ended_ms,omitempty"`
	Batch       []Entry                 `json:"batch"`
	Seq         int64                   `json:"seq"` // highest message sequence of the batch at start
	Replies     []MessageID             `json:"replies,omitempty"`
	Early       map[MessageID]MessageID `json:"early_replies,omitempty"` // messages answered while they were still waiting, with their replies
	Accepted    bool                    `json:"accepted,omitempty"`      // this attempt reported "accepted"
	Resent      bool                    `json:"resent,omitempty"`        // turn.start was sent a second time (TURN-3)
	Progress    int64                   `json:"progress,omitempty"`      // highest progress number of this attempt
	Incarnation int64                   `json:"incarnation"`
	Epoch       int64                   `json:"epoch"` // runner epoch that works on it
	Hops        int                     `json:"hops,omitempty"`
	Task        MessageID               `json:"task,omitempty"` // the task that it works on (QUE-6)
	Step        *Step                   `json:"step,omitempty"` // and how far that has come
	Result      json.RawMessage         `json:"result,omitempty"`
	Error       string                  `json:"error,omitempty"`
	Callback    string                  `json:"callback,omitempty"` // where its task's events go (LEG-7)
	Cancel      *Cancel                 `json:"cancel,omitempty"`
	Compacted   bool                    `json:"compacted,omitempty"` // its session was condensed meanwhile: not again before it ends (COMP-6)
	Outcome     Outcome                 `json:"outcome,omitempty"`
	Reason      string                  `json:"reason,omitempty"`
	RemindedMS  int64                   `json:"reminded_ms,omitempty"` // last reminder of this turn
	Unseen      bool                    `json:"unseen,omitempty"`      // the former attempt never reported "accepted" (REC-4)
}

// Entry is one message of a turn's batch.
type Entry struct {
	ID        MessageID `json:"id"`
	Seq       int64     `json:"seq"`
	Channel   Channel   `json:"channel"`
	Party     string    `json:"party"`
	PartyName string    `json:"party_name,omitempty"`
	PartyType string    `json:"party_type,omitempty"`
	TakenMS   int64     `json:"taken_ms"`
	ReadMS    int64     `json:"read_ms,omitempty"`
	Answered  bool      `json:"answered,omitempty"`
	Reply     MessageID `json:"reply,omitempty"`      // the last reply to it
	Metadata  bool      `json:"metadata,omitempty"`   // it has some
	Rank      int       `json:"rank,omitempty"`       // its place in the queue (QUE-6)
	Late      bool      `json:"late,omitempty"`       // pulled in by the runner, not part of the prompt
	CreatedMS int64     `json:"created_ms,omitempty"` // when such a message was accepted
}

// Cancel is a cancel that is durable: from then on the outcome is decided (TURN-5).
type Cancel struct {
	Command string  `json:"command"` // reason as the runner is told: interrupt, timeout, stop, delete, cancelled, balance_exhausted
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason"` // failure_reason of the messages
	DueMS   int64   `json:"due_ms"` // when the control plane ends the turn itself
	Requeue bool    `json:"requeue,omitempty"`
	AskedMS int64   `json:"asked_ms,omitempty"` // when somebody cancelled the task (LEG-8)
}

// cancels maps the reason given to the runner to the outcome of the turn and its messages (LIFE-4, QUE-3, TURN-4, BAL-6).
var cancels = map[string]Cancel{
	"interrupt":         {Outcome: Cancelled, Reason: "interrupted"},
	"timeout":           {Outcome: Failed, Reason: "timeout"},
	"stop":              {Outcome: Cancelled, Reason: "cancelled", Requeue: true},
	"delete":            {Outcome: Cancelled, Reason: "cancelled"},
	"cancelled":         {Outcome: Cancelled, Reason: "cancelled"},
	"balance_exhausted": {Outcome: Failed, Reason: "balance_exhausted"},
	"agent_error":       {Outcome: Failed, Reason: "agent_error"},
}

// Entry returns the batch entry of a message.
func (t *Turn) Entry(id MessageID) *Entry {
	for i := range t.Batch {
		if t.Batch[i].ID == id {
			return &t.Batch[i]
		}
	}
	return nil
}

// PhaseText is the phase for people, with what keeps the pod from running.
func PhaseText(p *Pod) string {
	if p.Note == "" || p.Phase == PodAbsent {
		return string(p.Phase)
	}
	return string(p.Phase) + ": " + p.Note
}

// PodName is the name of an agent's pod, the same for every incarnation.
func PodName(id ID) string {
	return "agent-" + string(id)
}

// Card is what lists of agents show; it is stored beside the snapshot so that a list reads little.
type Card struct {
	Name        string  `json:"name"`
	Description *string `json:"description"`
	CreatedMS   int64   `json:"created_ms"`
	UpdatedMS   int64   `json:"updated_ms"`
}

// MakeCard returns the card of a spec.
func (s *Spec) MakeCard() []byte {
	return Encode(Card{Name: s.Name, Description: s.Description, CreatedMS: s.CreatedMS, UpdatedMS: s.UpdatedMS})
}
