package fault

import (
	"fmt"
	"runtime/debug"
)

// Caught runs f and gives back a panic of it as an Internal fault, with the stack as its cause. On a goroutine beside an actor nobody else
// would catch it: it would end the node, and with it what the node does for everybody else.
func Caught(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = New(Internal, "internal", "Internal server error").Because(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	return f()
}
