package main

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// harden keeps secrets out of core dumps, out of other processes' reach and, where the system allows it, out of swap.
// Nothing here is needed for the service to work, so what the system refuses is logged and not fatal.
func harden(log *slog.Logger) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		log.Warn("core dumps cannot be switched off", "error", err)
	}
	// Not dumpable: no core file, and no ptrace or /proc/PID/mem for processes of the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.Warn("the process cannot be made non-dumpable", "error", err)
	}
	if !mayLock() {
		log.Info("memory is not locked: it needs LimitMEMLOCK=infinity or CAP_IPC_LOCK; use encrypted swap or none")
		return
	}
	// Pages are locked as they are touched: the runtime reserves far more address space than it uses.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Warn("memory is not locked", "error", err)
	}
}

// mayLock reports whether locking can never run into a limit: under one, a later allocation would fail and end the process.
func mayLock() bool {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err == nil && lim.Cur == unix.RLIM_INFINITY {
		return true
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
