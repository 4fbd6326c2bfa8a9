package member

// throughput is how many messages an activation handles before others get their turn.
const throughput = 300

// idleWorkers is how many goroutines wait for activations that have something to do.
const idleWorkers = 128

// workers runs activations on goroutines that stay: a fresh one grows its stack anew for every message.
type workers struct {
	work chan func()
	idle chan struct{} // one for each that waits, or is about to
	stop chan struct{}
}

func newWorkers() *workers {
	return &workers{work: make(chan func()), idle: make(chan struct{}, idleWorkers), stop: make(chan struct{})}
}

// Schedule implements actor.Dispatcher. It never waits: an activation may block for as long as its store does.
func (w *workers) Schedule(run func()) {
	select {
	case w.work <- run:
	default:
		go w.serve(run)
	}
}

// Throughput implements actor.Dispatcher.
func (*workers) Throughput() int { return throughput }

// serve runs what it is given, then what comes, unless enough others wait. It ends with the member.
func (w *workers) serve(run func()) {
	for {
		run()
		select {
		case w.idle <- struct{}{}:
		default:
			return
		}
		select {
		case run = <-w.work:
			<-w.idle
		case <-w.stop:
			return
		}
	}
}

// close lets the goroutines that wait end. Schedule still works: what comes then runs on goroutines of its own.
func (w *workers) close() { close(w.stop) }
