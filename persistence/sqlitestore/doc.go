// Package sqlitestore keeps everything durable in one SQLite file inside a directory: the embedded default of troupe dev.
//
// One process at a time owns the directory (a lock on it says so), which also proves at start that no member of an
// earlier process lives. Writes of many goroutines are collected into one transaction (write.go), synchronised to disk
// before anyone is answered, so an acknowledged write survives kill -9 and a power cut. Reads use a pool of their own.
package sqlitestore
