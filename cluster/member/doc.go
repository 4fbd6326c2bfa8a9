// Package member is the membership and placement of troupe's Proto.Actor cluster, on the store.
//
//	Provider   holds this node's lease, tells of changes, stops the node when the lease is lost
//	Lookup     says where a grain lives: the claim in the store if its member is alive, else the member that the
//	           identity hashes to claims it (epoch + 1) and activates it
//	Gate       the mailbox of every activation: bounded, and shut before the activation leaves
//
// Placement is an optimisation; correctness rests on the fence inside every commit. Joins move nothing. One code path
// serves one process, several processes and pods. Why the library's own parts are not used: cluster/DESIGN.md.
package member
