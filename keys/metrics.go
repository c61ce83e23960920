package keys

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/fault"
)

// metrics are those of the Service. Their labels are bounded: backends, operations, algorithms and fault codes.
type metrics struct {
	seconds     *prometheus.HistogramVec
	items       *prometheus.CounterVec
	cacheHits   prometheus.Counter
	cacheMisses prometheus.Counter
	stale       prometheus.Counter
	maintain    *prometheus.CounterVec
	waiting     prometheus.Gauge
}

// timer is what one successful operation of one key touches, looked up once for each record.
type timer struct {
	seconds prometheus.Observer
	items   prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Service) (*metrics, error) {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keywright_crypto_operation_seconds",
			Help: "Time of the cryptography of a request, without its audit record. A batch is one observation: see keywright_crypto_items_total.",
			Buckets: []float64{10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3,
				1, 2.5, 5, 10},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"backend", "operation", "algorithm", "outcome"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywright_crypto_items_total",
			Help: "Items of operations: one for a single operation, as many as it has for a batch.",
		}, []string{"backend", "operation", "algorithm", "outcome"}),
		cacheHits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keywright_key_cache_hits_total", Help: "Key records found in the cache.",
		}),
		cacheMisses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keywright_key_cache_misses_total", Help: "Key records that had to be read from the store.",
		}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keywright_key_versions_abandoned_total",
			Help: "Key versions whose creation never finished; a device may hold an object of each, which nothing deletes by itself.",
		}),
		maintain: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywright_key_maintenance_total", Help: "Scheduled acts on keys by their outcome.",
		}, []string{"act", "outcome"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keywright_key_maintenance_waiting",
			Help: "Keys whose scheduled act has failed and is tried again later: their backend is away, or worse. Of the node that does the maintenance.",
		}),
	}
	if r == nil {
		return m, nil
	}
	entries := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_key_cache_entries", Help: "Key records in the cache.",
	}, func() float64 { return float64(s.cache.len()) })
	near := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywright_key_versions_near_limit",
		Help: "Key versions that this node uses and that have protected three quarters or more of what their algorithm bears.",
	}, func() float64 { return float64(s.ledger.near()) })
	for _, c := range []prometheus.Collector{m.seconds, m.items, m.cacheHits, m.cacheMisses, m.stale, m.maintain, m.waiting, entries, near} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("keys: registering metrics: %w", err)
		}
	}
	return m, nil
}

// observe counts one request of an operation on a key.
func (m *metrics) observe(r *record, v verb, took time.Duration, items, failed int, outcome fault.Code) {
	good := r.timers[v].Load()
	if good == nil {
		labels := []string{r.label, v.String(), string(r.info.Name), okOutcome}
		good = &timer{m.seconds.WithLabelValues(labels...), m.items.WithLabelValues(labels...)}
		r.timers[v].Store(good)
	}
	if outcome == "" {
		good.seconds.Observe(took.Seconds())
	} else {
		m.seconds.WithLabelValues(r.label, v.String(), string(r.info.Name), string(outcome)).Observe(took.Seconds())
	}
	if items > failed {
		good.items.Add(float64(items - failed))
	}
	if failed > 0 {
		m.items.WithLabelValues(r.label, v.String(), string(r.info.Name), "failed").Add(float64(failed))
	}
}
