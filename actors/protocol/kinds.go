// Package protocol holds what actors say to each other: one protobuf envelope, the kinds of commands and their bodies.
//
// Every command carries an id and is safe to repeat; delivery between members is at most once, so senders repeat.
// Bodies never appear in logs: the envelope prints its kind and id only.
package protocol

//go:generate protoc --go_out=../.. --go_opt=module=troupe -I . envelope.proto

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Kinds of commands to an agent's grain, with their bodies and results.
const (
	Look      = "look"      // –: something may be due; a hint, no answer
	Due       = "due"       // –: as look, and the clock says so
	Observe   = "observe"   // –: as look, and the pod has changed
	Yield     = "yield"     // –: another agent needs the pod's place; a hint, no answer
	Status    = "status"    // StatusCommand → StatusResult
	Delete    = "delete"    // DeleteCommand → –
	Balance   = "balance"   // agent.BalanceChange → BalanceResult
	Update    = "update"    // UpdateCommand → UpdateResult
	Files     = "files"     // FilesCommand → – (the change is applied when the answer comes)
	Wake      = "wake"      // – → WakeResult
	Runtime   = "runtime"   // – → RuntimeResult
	Attach    = "attach"    // agent.Attach → AttachResult
	Detach    = "detach"    // RunnerCommand → –
	Progress  = "progress"  // ProgressCommand → ProgressResult
	End       = "end"       // EndCommand → agent.Ended
	Post      = "post"      // ReplyCommand → MessageResult
	Mark      = "mark"      // MarkCommand → MarkResult
	Disk      = "disk"      // DiskCommand → –
	Session   = "session"   // SessionCommand → –
	Report    = "report"    // ReportCommand → ReportResult
	Exhaust   = "exhaust"   // ExhaustCommand → –
	Trigger   = "trigger"   // TriggerCommand → TriggerResult
	Schedule  = "schedule"  // ScheduleCommand → ScheduleResult
	Rotate    = "rotate"    // RotateCommand → RotateResult
	Redeliver = "redeliver" // RedeliverCommand → agent.Delivery
	Link      = "link"      // LinkCommand → LinkResult
	Send      = "send"      // to a bot: agent.Part → SendResult
	Typing    = "typing"    // to a bot: agent.Part without text; nothing is answered
	Read      = "read"      // ReadCommand → MarkResult (mark-read by the user)
	Compact   = "compact"   // CompactCommand → –
	Touch     = "touch"     // – → –: what the runner may use has changed
	Task      = "task"      // TaskCommand → TaskResult
	Rouse     = "rouse"     // to the placement of a member: RouseCommand → RouseResult
)

// RouseCommand names identities of a kind of which something is due; those that are not active are activated first.
type RouseCommand struct {
	Kind       string   `json:"kind"`
	Identities []string `json:"identities"`
}

// RouseResult names those that this member could not activate.
type RouseResult struct {
	Left []string `json:"left,omitempty"`
}

// Guard is what every runner call carries.
type Guard struct {
	Incarnation int64 `json:"incarnation"`
	Epoch       int64 `json:"epoch"`
}

// Runner returns the guard for a commit.
func (g Guard) Runner() *agent.RunnerGuard {
	return &agent.RunnerGuard{Incarnation: g.Incarnation, Epoch: g.Epoch}
}

// Bodies and results, by kind.
type (
	// TaskCommand cancels a task, or sends input to it under a message id that the caller has made, so that a repeat changes nothing.
	TaskCommand struct {
		ID    agent.MessageID `json:"id"`
		Input string          `json:"input,omitempty"` // "": cancel
		As    agent.MessageID `json:"as,omitempty"`
	}
	// TaskResult is the task's state afterwards.
	TaskResult struct {
		Status      string `json:"status"`
		CancelledMS int64  `json:"cancelled_ms,omitempty"`
	}
	// StatusCommand is a verb of the status table.
	StatusCommand struct {
		Verb agent.Verb `json:"verb"`
	}
	// StatusResult is the status after the command.
	StatusResult struct {
		Status agent.Status `json:"status"`
	}
	// DeleteCommand deletes the agent.
	DeleteCommand struct {
		Force bool `json:"force"`
	}
	// BalanceResult is the balance before and after.
	BalanceResult struct {
		Previous int64 `json:"previous"`
		Balance  int64 `json:"balance"`
	}
	// UpdateCommand is a patch, read and checked; Secrets are sealed already. Document is the request's body.
	UpdateCommand struct {
		Document []byte `json:"document"`
		// NewWebhookSecret is used if the update adds the first webhook, sealed (OUT-5).
		NewWebhookSecret string `json:"new_webhook_secret,omitempty"`
	}
	// UpdateResult says whether the offered webhook secret was taken.
	UpdateResult struct {
		SecretTaken bool   `json:"secret_taken"`
		Version     int64  `json:"version"`
		FilesID     string `json:"files_id,omitempty"` // a file change was begun
	}
	// WakeResult says whether the workspace can be reached, and where.
	WakeResult struct {
		Ready       bool   `json:"ready"`
		Endpoint    string `json:"endpoint,omitempty"`
		Incarnation int64  `json:"incarnation,omitempty"`
	}
	// RuntimeResult is the activation's view of itself.
	RuntimeResult struct {
		Node        string        `json:"node"`
		Epoch       int64         `json:"epoch"`
		ActivatedMS int64         `json:"activated_ms"`
		Mailbox     int           `json:"mailbox"`
		State       agent.State   `json:"state"`
		Figures     agent.Figures `json:"figures"`
		Timers      []Timer       `json:"timers"`
		Restarts    int           `json:"restarts"`
	}
	// Timer is one armed timer.
	Timer struct {
		Kind  string `json:"kind"`
		DueMS int64  `json:"due_ms"`
	}
	// AttachResult is what a runner learns by attaching.
	AttachResult struct {
		RunnerEpoch   int64          `json:"runner_epoch"`
		Epoch         int64          `json:"epoch"`
		ConfigVersion int64          `json:"config_version"`
		NowMS         int64          `json:"now_ms"`
		Turn          agent.TurnID   `json:"turn,omitempty"`
		Session       *agent.Session `json:"session,omitempty"`
		Start         string         `json:"start,omitempty"`
	}
	// RunnerCommand is a runner call without more.
	RunnerCommand struct {
		Guard
		Reason string `json:"reason,omitempty"`
		Detail string `json:"detail,omitempty"`
	}
	// ProgressCommand reports progress of a turn.
	ProgressCommand struct {
		Guard
		Turn    agent.TurnID          `json:"turn"`
		Entries []agent.ProgressEntry `json:"entries"`
	}
	// ProgressResult is the highest number stored.
	ProgressResult struct {
		Seq        int64 `json:"seq"`
		DeadlineMS int64 `json:"deadline_ms"`
	}
	// EndCommand ends a turn.
	EndCommand struct {
		Guard
		agent.End
	}
	// ReplyCommand posts a reply, or a message to a listed entity.
	ReplyCommand struct {
		Guard
		Turn  agent.TurnID     `json:"turn,omitempty"`
		Draft agent.ReplyDraft `json:"draft"`
		To    *agent.Body      `json:"to,omitempty"` // instead of a reply: a proactive message, complete
		Key   string           `json:"key,omitempty"`
		Hash  string           `json:"hash,omitempty"`
	}
	// MessageResult names the message that was stored.
	MessageResult struct {
		ID       agent.MessageID `json:"id"`
		Replayed bool            `json:"replayed,omitempty"`
		Intent   bool            `json:"intent,omitempty"` // it goes to another agent (MSG-14)
	}
	// MarkCommand moves messages forward for the runner.
	MarkCommand struct {
		Guard
		Turn agent.TurnID      `json:"turn,omitempty"`
		Read bool              `json:"read"`
		IDs  []agent.MessageID `json:"ids"`
	}
	// TriggerCommand makes, changes or deletes a trigger.
	TriggerCommand struct {
		Add  *agent.InboundTrigger `json:"add,omitempty"` // complete but for its instants
		ID   string                `json:"id,omitempty"`  // of the one to change or delete
		Set  *agent.TriggerPatch   `json:"set,omitempty"` // nil: delete
		Key  string                `json:"key,omitempty"` // idempotency of Add
		Hash string                `json:"hash,omitempty"`
	}
	// TriggerResult is a trigger as it is now; replayed: as it was made.
	TriggerResult struct {
		agent.InboundTrigger
		Replayed bool `json:"replayed,omitempty"`
	}
	// ScheduleCommand makes, changes, flips or deletes a schedule.
	ScheduleCommand struct {
		Do   string               `json:"do"` // one of the Schedule verbs
		ID   string               `json:"id"`
		Set  *agent.SchedulePatch `json:"set,omitempty"`
		Key  string               `json:"key,omitempty"` // idempotency of add
		Hash string               `json:"hash,omitempty"`
	}
	// ScheduleResult is a schedule as it is now; replayed: as it was made.
	ScheduleResult struct {
		agent.Schedule
		Replayed bool `json:"replayed,omitempty"`
	}
	// RotateCommand replaces the signing secret of webhooks by a sealed one; the present one goes on signing for a while.
	RotateCommand struct {
		Sealed  string `json:"sealed"`
		GraceMS int64  `json:"grace_ms"`
	}
	// RotateResult says until when the former secret signs, 0 if it does not.
	RotateResult struct {
		FormerMS int64 `json:"former_ms,omitempty"`
	}
	// RedeliverCommand sends a delivery again.
	RedeliverCommand struct {
		ID string `json:"id"`
	}
	// LinkCommand is about the linked chat accounts of an agent.
	LinkCommand struct {
		Do      string          `json:"do"` // one of the Link verbs
		Channel agent.Channel   `json:"channel,omitempty"`
		Hash    string          `json:"hash,omitempty"`   // of a code
		Shared  string          `json:"shared,omitempty"` // the platform's Discord bot
		Binding agent.Binding   `json:"binding"`          // account and bot, or id and mode
		Message agent.MessageID `json:"message,omitempty"`
		Reason  string          `json:"reason,omitempty"`
	}
	// LinkResult is the binding as it is now, or when a code ends.
	LinkResult struct {
		Binding agent.Binding `json:"binding"`
		UntilMS int64         `json:"until_ms,omitempty"`
		Name    string        `json:"name,omitempty"` // of the agent
	}
	// SendResult is what became of a part.
	SendResult struct {
		Fate    agent.RelayFate `json:"fate"`
		AfterMS int64           `json:"after_ms,omitempty"`
	}
	// ReadCommand marks replies as read by the user.
	ReadCommand struct {
		IDs []agent.MessageID `json:"ids"`
	}
	// MarkResult says what changed.
	MarkResult struct {
		Updated int               `json:"updated"`
		Ignored []agent.MessageID `json:"ignored"`
	}
	// DiskCommand reports the size of the workspace.
	DiskCommand struct {
		Guard
		Usage agent.DiskUsage `json:"usage"`
	}
	// SessionCommand reports the transcript behind a session.
	SessionCommand struct {
		Guard
		Session agent.SessionID `json:"session"`
		SDK     string          `json:"sdk"`
		Context int64           `json:"context,omitempty"`
		Lost    bool            `json:"lost,omitempty"`
	}
	// CompactCommand is the runner's report of a compaction.
	CompactCommand struct {
		Guard
		agent.CompactReport
		Session agent.SessionID `json:"session"`
	}
	// ReportCommand is the runner's execution status.
	ReportCommand struct {
		Guard
		Execution string `json:"execution"`
		Error     string `json:"error,omitempty"`
		Fatal     bool   `json:"fatal,omitempty"`
	}
	// ReportResult is the agent's status after it.
	ReportResult struct {
		Status agent.Status `json:"status"`
	}
	// ExhaustCommand tells that a model call was refused for lack of balance.
	ExhaustCommand struct {
		Turn agent.TurnID `json:"turn"`
	}
)

// NewCommand makes a command of a kind.
func NewCommand(kind string, body any) *Command {
	c := &Command{Id: agent.NewUUID(), Kind: kind}
	if body != nil {
		c.Body = agent.Encode(body)
	}
	return c
}

// Decode reads the body of a command or reply.
func Decode[T any](body []byte) (T, error) {
	var v T
	if len(body) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}

// Answer makes the reply to a command.
func Answer(result any, err error) *Reply {
	if err != nil {
		return &Reply{Fault: toFault(fault.Of(err))}
	}
	if result == nil {
		return &Reply{}
	}
	if raw, ok := result.(json.RawMessage); ok {
		return &Reply{Body: raw}
	}
	return &Reply{Body: agent.Encode(result)}
}

func toFault(f *fault.Error) *Fault {
	out := &Fault{Kind: int32(f.Kind), Code: f.Code, Message: f.Message, RetryMs: f.Retry.Milliseconds()}
	for _, d := range f.Details {
		out.Details = append(out.Details, &Detail{Field: d.Field, Reason: d.Reason})
	}
	return out
}

// Err returns the fault of a reply, nil if it has none.
func (x *Reply) Err() error {
	f := x.GetFault()
	if f == nil {
		return nil
	}
	e := fault.New(fault.Kind(f.Kind), f.Code, f.Message).After(time.Duration(f.RetryMs) * time.Millisecond)
	for _, d := range f.Details {
		e = e.At(d.Field, d.Reason)
	}
	return e
}

// LogValue keeps bodies out of every log (SEC-3).
func (x *Command) LogValue() slog.Value {
	return slog.GroupValue(slog.String("kind", x.GetKind()), slog.String("id", x.GetId()))
}

// LogValue keeps bodies out of every log (SEC-3).
func (x *Reply) LogValue() slog.Value { return slog.BoolValue(x.GetFault() == nil) }

// What a LinkCommand does.
const (
	LinkCode     = "code"     // opens a code
	LinkRedeem   = "redeem"   // uses it
	LinkUnlink   = "unlink"   // ends a binding
	LinkMode     = "mode"     // changes its queue mode
	LinkFailed   = "failed"   // a reply that the network had taken was not delivered
	LinkDisplace = "displace" // the account was linked elsewhere through the same bot
)

// What a ScheduleCommand does.
const (
	ScheduleAdd    = "add"
	ScheduleChange = "change"
	ScheduleToggle = "toggle"
	ScheduleDrop   = "drop"
)
