package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Mode says whether runners are isolated.
type Mode string

// The modes: use bubblewrap where it works, insist on it, or do without.
const (
	Auto     Mode = "auto"
	Required Mode = "required"
	Off      Mode = "off"
)

// sandbox makes the command of a runner.
type sandbox interface {
	name() string
	command(runner, dir, data string) *exec.Cmd
}

// detect tries bubblewrap once: in containers without user namespaces it fails, and then that is said.
func detect(m Mode) (sandbox, error) {
	if m == Off {
		return plain{}, nil
	}
	path, err := exec.LookPath("bwrap")
	if err == nil {
		out, runErr := exec.Command(path, "--unshare-user-try", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true").CombinedOutput()
		if runErr == nil {
			return bubblewrap{path}, nil
		}
		err = fmt.Errorf("bubblewrap does not work here: %s", out)
	}
	if m == Required {
		return nil, errors.Join(errors.New("TROUPE_SANDBOX is required"), err)
	}
	return plain{}, nil
}

// baseEnv is all that a runner inherits; nothing of the node's own environment leaks.
func baseEnv(home, workspace, run string) []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=" + home,
		"WORKSPACE_PATH=" + workspace, "TROUPE_RUN_DIR=" + run}
}

type plain struct{}

func (plain) name() string { return "none" }

func (plain) command(runner, dir, _ string) *exec.Cmd {
	cmd := exec.Command(runner)
	cmd.Dir = filepath.Join(dir, "workspace")
	cmd.Env = baseEnv(filepath.Join(dir, "home"), cmd.Dir, filepath.Join(dir, "run"))
	return cmd
}

type bubblewrap struct{ path string }

func (bubblewrap) name() string { return "bubblewrap" }

// hostFiles are what the sandbox shows of the host besides its programs, read-only.
var hostFiles = []string{"/opt", "/etc/ssl", "/etc/ca-certificates", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/passwd",
	"/etc/group", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types"}

// command gives the runner a root of its own: the host's programs read-only, its three directories, its own processes.
// The network stays: the runner must reach its node.
func (b bubblewrap) command(runner, dir, _ string) *exec.Cmd {
	args := []string{"--unshare-user-try", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--ro-bind", "/usr", "/usr"}
	for _, d := range []string{"bin", "sbin", "lib", "lib32", "lib64"} {
		if to, err := os.Readlink("/" + d); err == nil {
			args = append(args, "--symlink", to, "/"+d)
		} else {
			args = append(args, "--ro-bind-try", "/"+d, "/"+d)
		}
	}
	for _, f := range hostFiles {
		args = append(args, "--ro-bind-try", f, f)
	}
	args = append(args, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--bind", filepath.Join(dir, "workspace"), "/workspace", "--bind", filepath.Join(dir, "home"), "/agent/home",
		"--bind", filepath.Join(dir, "run"), "/agent/run", "--ro-bind", runner, "/agent/troupe-runner",
		"--chdir", "/workspace", "--", "/agent/troupe-runner")
	cmd := exec.Command(b.path, args...)
	cmd.Dir = "/"
	cmd.Env = baseEnv("/agent/home", "/workspace", "/agent/run")
	return cmd
}
