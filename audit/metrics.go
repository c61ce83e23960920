package audit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a log. No label names a key or a tenant.
type metrics struct {
	reg     prometheus.Registerer
	batch   prometheus.Histogram
	seconds prometheus.Histogram
	cosigns *prometheus.CounterVec
	all     []prometheus.Collector
}

func newMetrics(l *Log, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reg: reg,
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "keywright_audit_batch_size",
			Help:    "Records committed to the audit log in one transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10), // 1 … 512
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                           "keywright_audit_commit_seconds",
			Help:                           "Time for one transaction of the audit log to become durable.",
			Buckets:                        []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 10},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
	}
	m.cosigns = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywright_audit_cosignatures_total",
		Help: "Checkpoints shown to a witness, by the witness and whether it cosigned.",
	}, []string{"witness", "outcome"})
	queue := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_audit_queue_depth",
		Help: "Records that wait for the next transaction of the audit log.",
	}, func() float64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(len(l.waiting))
	})
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_audit_size",
		Help: "Entries in the audit log.",
	}, func() float64 { return float64(l.Size()) })
	m.all = []prometheus.Collector{m.batch, m.seconds, m.cosigns, queue, size}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			// Nothing stays behind of a log that did not open. What was registered before is ours.
			for _, done := range m.all[:i] {
				reg.Unregister(done)
			}
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(records int, took time.Duration) {
	m.batch.Observe(float64(records))
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) witnessed(name string, ok bool) {
	outcome := "ok"
	if !ok {
		outcome = "failed"
	}
	m.cosigns.WithLabelValues(name, outcome).Inc()
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
