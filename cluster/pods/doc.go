// Package pods runs agents on Kubernetes: one Pod and one PersistentVolumeClaim per agent.
//
//	agent-<id>                 the claim: lives as long as the agent, only grows
//	agent-<id>                 the Pod: owned by the claim; its incarnation is a label
//	agent-<id>-<incarnation>   the Secret with its environment: owned by the Pod, so it goes with it
//
// The Pod's name is the same for every incarnation: names are unique in the API server, so two nodes that believe they own one
// agent cannot start it twice (POD-1), whatever either has read before. Pods are created and never applied over, as applying
// would merge onto another incarnation's. A Pod is given up by its UID, so an old owner's delete cannot hit a newer one.
//
// One informer per node keeps the Pods of the installation in memory, without what nobody reads, and hints when something about
// one changes. What the cache says is a hint as well: that a Pod is absent is believed only after asking the API server.
package pods
