package jobs

// Prune is what the runner does once an hour.
func (r *Runner) Prune() error { return r.prune() }
