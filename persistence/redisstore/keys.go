package redisstore

import (
	"strconv"

	"troupe/actors/agent"
)

// Keys of one agent, all under the hash tag of its id. Writers: A accept, C commit, L ledger, B beat, N create, P claim.
//
//	a:{id}:h        hash    head: member addr pid epoch (P) · v spec state card status reason deleted (C,N) · account created (N)
//	                        balance used odt odu (L,C) · mseq eseq cseq mcount last intr (A,C) · turn lturn tend session comp (C)
//	                        inc repoch ratt rlease rbeat rsub rexec rinfo (C,B)
//	a:{id}:m        hash    message id → seq:created:body            A C
//	a:{id}:k        hash    message id → mark; none: pending         C
//	a:{id}:o        zset    message id by seq                        A C
//	a:{id}:p        zset    pending message id by seq                A C
//	a:{id}:o:PARTY  zset    message id of one counterparty by seq    A C
//	a:{id}:cv       zset    counterparty by time of last message     A C
//	a:{id}:cc       hash    PARTY:u unread, :c channel, TRIGGER:n :at  A C
//	a:{id}:e        stream  events, id ms-seq, newest 10000          A C N L
//	a:{id}:c        zset    runner commands by seq                   C
//	a:{id}:r        hash    kind/id → record                         C N
//	a:{id}:x:KIND   zset    record ids of a kind (KIND/GROUP) by score  C N
//	a:{id}:v        hash    open reservations                        L
//	a:{id}:u        hash    sums of usage                            L
//	a:{id}:ur       zset    ids of a runner's usage reports by time  L
//	a:{id}:i:HASH   hash    idempotency, 24 h                        A C
//
// Keys of one account under {account-id}, and installation-wide ones:
//
//	acct:{id}:doc   string  account
//	acct:{id}:ag    zset    agent ids by creation
//	acct:{id}:i:H   hash    idempotency of create, 24 h
//	acct:{id}:pk    hash    platform key id → key
//	acct:{id}:vk    hash    provider key id → key
//	acct:email:{E}  string  account id
//	acct:first      string  account id of the administrator
//	pk:{HASH}       string  account id/key id
//	n:{KEY}         string  counter of a window
//	bots            set     ids of bots that agents use
//	bot:{ID}        hash    agent → channel
//	rt:{KIND/ID}    string  agent that an id of the outside belongs to
//	st:{KEY}        zset    open streams of an agent or account by end of their lease
//	clk:{SHARD}:h   hash    claim of the shard
//	clk:{SHARD}:d   zset    agent id by due instant
//	clk:{SHARD}:p   zset    agent id by stamp of its newest acceptance
//	mem:{m}:*       leases, records, grains, version, last beat of members
//	g:{KIND/ID}:h   hash    claim of a grain that is no agent
const shards = 64

// ttlIdempotency is how long an idempotency record is kept (IDEM-2).
const ttlIdempotency = "86400000"

type agentKeys string

func keysOf(id agent.ID) agentKeys { return agentKeys("a:{" + string(id) + "}:") }

func (k agentKeys) head() string          { return string(k) + "h" }
func (k agentKeys) bodies() string        { return string(k) + "m" }
func (k agentKeys) marks() string         { return string(k) + "k" }
func (k agentKeys) order() string         { return string(k) + "o" }
func (k agentKeys) pending() string       { return string(k) + "p" }
func (k agentKeys) party(p string) string { return string(k) + "o:" + p }
func (k agentKeys) conversations() string { return string(k) + "cv" }
func (k agentKeys) counters() string      { return string(k) + "cc" }
func (k agentKeys) events() string        { return string(k) + "e" }
func (k agentKeys) commands() string      { return string(k) + "c" }
func (k agentKeys) records() string       { return string(k) + "r" }
func (k agentKeys) index(kind, group string) string {
	if group != "" {
		kind += "/" + group
	}
	return string(k) + "x:" + kind
}
func (k agentKeys) reservations() string    { return string(k) + "v" }
func (k agentKeys) usage() string           { return string(k) + "u" }
func (k agentKeys) reports() string         { return string(k) + "ur" }
func (k agentKeys) idem(hash string) string { return string(k) + "i:" + hash }
func (k agentKeys) topic() string           { return string(k) + "t" }
func grainHead(kind, identity string) string {
	switch shard, err := strconv.Atoi(identity); {
	case kind == "agent":
		return keysOf(agent.ID(identity)).head()
	case kind == agent.KindClock && err == nil: // beside what it owns
		return clockKey(shard, "h")
	}
	return "g:{" + kind + "/" + identity + "}:h"
}

func shardOf(id agent.ID) int {
	h := uint32(2166136261)
	for i := 0; i < len(id); i++ {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return int(h % shards)
}

func clockKey(shard int, kind string) string {
	return "clk:{" + string(rune('A'+shard/26)) + string(rune('a'+shard%26)) + "}:" + kind
}
