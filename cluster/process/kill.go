package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stat is what /proc says of a process.
type stat struct {
	pid, ppid, sid int
	start          string
	zombie         bool
}

// readStat reads /proc/<pid>/stat; ok is false when there is no such process.
func readStat(pid int) (s stat, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, false
	}
	end := bytes.LastIndexByte(b, ')') // the name may hold anything
	if end < 0 {
		return s, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return s, false
	}
	s.pid, s.start, s.zombie = pid, f[19], f[0] == "Z" || f[0] == "X"
	s.ppid, _ = strconv.Atoi(f[1])
	s.sid, _ = strconv.Atoi(f[3])
	return s, true
}

// startTime identifies a process together with its pid; "" when it does not run (any more).
func startTime(pid int) string {
	s, ok := readStat(pid)
	if !ok || s.zombie {
		return ""
	}
	return s.start
}

// signalLeader signals the runner itself. The sandbox's outer process passes SIGTERM to nobody, so the runner inside gets it.
func signalLeader(pid int, sig syscall.Signal) error {
	for _, s := range family(pid) {
		if exe, err := os.Readlink("/proc/" + strconv.Itoa(s.pid) + "/exe"); err == nil && strings.HasPrefix(filepath.Base(exe), "troupe-runner") {
			return syscall.Kill(s.pid, sig)
		}
	}
	return syscall.Kill(pid, sig)
}

// family lists every process of the session that pid leads and every descendant of those, pid first.
func family(pid int) []stat {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	all := make([]stat, 0, len(dirs))
	for _, d := range dirs {
		n, _ := strconv.Atoi(filepath.Base(d))
		if s, ok := readStat(n); ok {
			all = append(all, s)
		}
	}
	in := map[int]bool{pid: true}
	leader, _ := readStat(pid)
	leader.pid = pid
	out := []stat{leader}
	for grown := true; grown; {
		grown = false
		for _, s := range all {
			if !in[s.pid] && (s.sid == pid || in[s.ppid]) {
				in[s.pid], grown = true, true
				out = append(out, s)
			}
		}
	}
	return out
}

// killSession kills the session that pid leads and all descendants, again until none is left that was there before.
func killSession(pid int) {
	for range 3 {
		members := family(pid)
		for _, s := range members {
			if s.pid != os.Getpid() {
				_ = syscall.Kill(s.pid, syscall.SIGKILL)
			}
		}
		if len(members) == 1 {
			return
		}
	}
}

// killLeft kills those of a family that still run, with what they have started since. One with a session of its own is found by nobody once
// its parent has ended.
func killLeft(members []stat) {
	for _, s := range members {
		if s.start != "" && startTime(s.pid) == s.start && s.pid != os.Getpid() {
			killSession(s.pid)
		}
	}
}
