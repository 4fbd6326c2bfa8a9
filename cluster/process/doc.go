// Package process runs agents as plain processes on this host: one runner per agent, in its own session and directory,
// inside bubblewrap where that works.
//
//	<dir>/agents/<id>/workspace   the workspace (/workspace in the sandbox)
//	<dir>/agents/<id>/home        HOME: transcripts and memory (/agent/home in the sandbox)
//	<dir>/agents/<id>/run         record.json, lock, log
//
// A runner outlives its node. Its record says which incarnation it is, and it holds the exclusive lock of its run
// directory while it lives; the owning node adopts or kills it by that record, and starts another only when the lock is
// free. That is what keeps two runners from one workspace (POD-1), also with several nodes on one host. Stopping ends
// the whole session and every descendant; a process that has left both (its own session, its parent gone) is ended by the
// sandbox only. At most Limit runners live at once; further starts wait in order, and the longest-idle warm one is stopped
// for them.
package process
