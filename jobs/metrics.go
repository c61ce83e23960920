package jobs

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a Runner. Labels are kinds and states, which are few.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	ended      *prometheus.CounterVec
}

func newMetrics(r *Runner, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{registerer: registerer}
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywright_jobs_ended_total", Help: "Jobs that ended on this node, by kind and state.",
	}, []string{"kind", "state"})
	m.all = []prometheus.Collector{m.ended, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_jobs_running", Help: "Jobs that run on this node.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.running))
	})}
	if registerer == nil {
		return m, nil
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, registerer.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) end(k Kind, s State) { m.ended.WithLabelValues(string(k), string(s)).Inc() }

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
