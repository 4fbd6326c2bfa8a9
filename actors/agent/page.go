package agent

import (
	"slices"

	"troupe/actors/fault"
)

// Matches says whether a message passes the filters of the page.
func (p *Page) Matches(m *Message) bool {
	return (p.Status == "" || m.Status == p.Status) && (p.Channel == "" || m.Channel == p.Channel) &&
		(p.Party == "" || m.Counterparty == p.Party) && (p.Role == "" || m.Role == p.Role)
}

// Cut turns messages read from the cursor on, one more than the limit if there are more, into the page sorted as asked.
func (p *Page) Cut(read []Message, back bool) (page []Message, more bool) {
	if len(read) > p.Limit {
		read, more = read[:p.Limit], true
	}
	if back != p.Desc {
		slices.Reverse(read)
	}
	return read, more
}

// Refused translates the word by which a ledger refuses a reservation (LLM-1, LLM-2, LLM-4).
func Refused(word string) error {
	switch word {
	case "key":
		return fault.New(fault.Unauthenticated, "invalid_token", "Invalid or expired token")
	case "runner":
		return fault.New(fault.Forbidden, "forbidden", "The runner epoch is not the present one")
	case "turn":
		return fault.New(fault.Forbidden, "forbidden", "The turn is not the running one")
	case "idle":
		return fault.New(fault.Forbidden, "forbidden", "The agent has no running turn")
	case "busy":
		return fault.New(fault.Limited, "rate_limited", "The rest of the balance is reserved by calls that are running").After(2e9)
	case "empty":
		return fault.New(fault.Exhausted, "balance_exhausted", "The output token balance of this agent is exhausted")
	}
	return fault.Store(nil)
}

// RefusedReport is the fault behind a store's word for a refused report of a runner (FENCE-4, FENCE-5).
func RefusedReport(word string) error {
	switch word {
	case "key":
		return Refused(word)
	case "runner":
		return fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
	case "stale":
		return fault.New(fault.Conflict, "stale_turn", "Another turn is running")
	}
	return fault.Store(nil)
}
