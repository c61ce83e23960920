package secret

import (
	"io/fs"
	"os"
	"syscall"
)

// Private reports whether a file of secrets is readable by nobody who should not: by its owner alone; or, when the owner is root, by one group that is not
// root's own while this process is not root's. The second is how service managers hand secrets to a user (systemd.exec(5), credentials; the volumes of
// Kubernetes with fsGroup), and what PostgreSQL holds its TLS keys to.
func Private(info fs.FileInfo) bool {
	perm := info.Mode().Perm()
	if perm&0o077 == 0 {
		return true
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && perm&0o037 == 0 && st.Uid == 0 && (st.Gid != 0 || os.Geteuid() != 0)
}
