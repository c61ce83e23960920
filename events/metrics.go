package events

import "github.com/prometheus/client_golang/prometheus"

// metrics of webhooks: no label names a tenant or a receiver.
type metrics struct {
	calls   *prometheus.CounterVec // by result
	seconds prometheus.Histogram
	givenUp prometheus.Counter
	active  prometheus.Gauge
	failing prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_webhook_calls_total",
			Help: "Calls to receivers of webhooks, by result: delivered or failed."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "keywright_webhook_call_seconds",
			Help: "Time of a call to a receiver of webhooks, in seconds.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 12)}),
		givenUp: prometheus.NewCounter(prometheus.CounterOpts{Name: "keywright_webhook_events_given_up_total",
			Help: "Events that were not delivered to a webhook within 24 hours."}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keywright_webhooks_active",
			Help: "Webhooks that this node delivers to."}),
		failing: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keywright_webhooks_failing",
			Help: "Webhooks that this node delivers to and whose last call failed."}),
	}
	for _, result := range []string{"delivered", "failed"} {
		m.calls.WithLabelValues(result) // shown from the beginning
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.givenUp, m.active, m.failing} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
