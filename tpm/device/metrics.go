package device

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type counters struct {
	resets, retries, trips, refused, loads, hits atomic.Uint64
	lockoutCounter, lockoutMax                   atomic.Uint32
	inLockout                                    atomic.Bool
}

// Stats are counts since the device was opened.
type Stats struct {
	Queued  int    // operations that wait or run
	Refused uint64 // operations that the queue refused
	Resets  uint64 // of the TPM
	Retries uint64 // commands given again after TPM_RC_RETRY and its like, or after room was made
	Trips   uint64 // times that the TPM was taken for away
	Loads   uint64 // objects loaded
	Hits    uint64 // objects found loaded
	Down    bool   // the TPM is away
	Lockout Lockout
}

// Stats gives the counts without asking the TPM; Lockout is as the watcher saw it last.
func (d *Device) Stats() Stats {
	s := &d.stats
	return Stats{Queued: int(d.queued.Load()), Refused: s.refused.Load(), Resets: s.resets.Load(), Retries: s.retries.Load(),
		Trips: s.trips.Load(), Loads: s.loads.Load(), Hits: s.hits.Load(), Down: d.state.Load() != up, Lockout: d.Info().Lockout}
}

// metrics of a device. Labels are its name and the operation: both bounded.
type metrics struct {
	queue, device *prometheus.HistogramVec
	numbers       []number
	own           []prometheus.Collector
}

type number struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func() float64
}

func newMetrics(d *Device) *metrics {
	labels := prometheus.Labels{"backend": d.o.Name}
	buckets := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	m := &metrics{
		queue: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keywright_tpm_queue_seconds",
			Help: "Time that operations waited for the TPM.", ConstLabels: labels, Buckets: buckets}, []string{"operation"}),
		device: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keywright_tpm_device_seconds",
			Help: "Time that operations had the TPM.", ConstLabels: labels, Buckets: buckets}, []string{"operation"}),
	}
	m.own = []prometheus.Collector{m.queue, m.device}
	add := func(name, help string, kind prometheus.ValueType, of func() float64) {
		m.numbers = append(m.numbers, number{prometheus.NewDesc("keywright_tpm_"+name, help, nil, labels), kind, of})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	s := &d.stats
	count := func(v *atomic.Uint64) func() float64 { return func() float64 { return float64(v.Load()) } }
	add("queued", "Operations that wait for the TPM or have it.", gauge, func() float64 { return float64(d.queued.Load()) })
	add("refused_total", "Operations that the queue refused.", counter, count(&s.refused))
	add("resets_total", "Resets of the TPM.", counter, count(&s.resets))
	add("retries_total", "Commands given again because the TPM asked for it.", counter, count(&s.retries))
	add("trips_total", "Times that the TPM was taken for away.", counter, count(&s.trips))
	add("loads_total", "Objects loaded.", counter, count(&s.loads))
	add("load_hits_total", "Objects found loaded.", counter, count(&s.hits))
	add("breaker_open", "1: the TPM is away and is sought.", gauge, func() float64 { return yes(d.state.Load() != up) })
	add("lockout_counter", "Wrong passwords that the TPM counts (TPM_PT_LOCKOUT_COUNTER).", gauge, func() float64 { return float64(s.lockoutCounter.Load()) })
	add("lockout_max", "Wrong passwords after which it locks (TPM_PT_MAX_AUTH_FAIL).", gauge, func() float64 { return float64(s.lockoutMax.Load()) })
	add("lockout", "1: the TPM is in dictionary-attack lockout.", gauge, func() float64 { return yes(s.inLockout.Load()) })
	return m
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe and Collect make metrics a prometheus.Collector. A scrape does not ask the TPM.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.own {
		c.Describe(ch)
	}
	for _, n := range m.numbers {
		ch <- n.desc
	}
}

// Collect gives the metrics.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.own {
		c.Collect(ch)
	}
	for _, n := range m.numbers {
		ch <- prometheus.MustNewConstMetric(n.desc, n.kind, n.of())
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(m); err != nil {
		return fmt.Errorf("registering the TPM's metrics: %w", err)
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r != nil {
		r.Unregister(m)
	}
}
