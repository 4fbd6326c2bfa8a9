// Package redisstore keeps everything durable in Redis 7.0 or later: one primary, Sentinel or Cluster.
//
// All keys of an agent share the hash tag {agent-id}, so one script can change any of it in one atomic step; keys.go
// lists every key shape. Scripts that many goroutines run at once are collected into pipelines (batch.go), so the cost
// of durability is one round trip per batch, not per message. A call whose outcome is unknown (time-out, lost
// connection) is fault.Unavailable; writes are never repeated by the client library, only by callers with the same ids.
package redisstore
