package api

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of requests. The labels are bounded: the route's pattern, never the path; the class of the status, "2xx".
type metrics struct {
	inFlight prometheus.Gauge
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	errors   *prometheus.CounterVec // by fault code, of which there are as many as fault.Codes has
	routes   map[*route]*routeMetrics
	none     *routeMetrics // requests that no route takes
}

// routeMetrics are the metrics of one route. Each class is looked up when it first occurs, so that a route shows only what
// it has answered.
type routeMetrics struct {
	all          *metrics
	path, method string
	classes      [classes]atomic.Pointer[series]
}

type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

const classes = 5

func classOf(status int) int { return min(max(status/100, 1), classes) - 1 }

func newMetrics(reg prometheus.Registerer, routes []route) (*metrics, error) {
	labels := []string{"route", "method", "status"}
	m := &metrics{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keywright_http_requests_in_flight",
			Help: "Requests that are being worked on."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_http_requests_total",
			Help: "Requests, by route pattern, method and class of status."}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keywright_http_request_seconds",
			Help:                        "Time from the request's header to the end of its response, in seconds.",
			Buckets:                     []float64{1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			NativeHistogramMinResetDuration: time.Hour}, labels),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keywright_http_errors_total",
			Help: "Requests that were refused or have failed, by the code of the error."}, []string{"code"}),
		routes: make(map[*route]*routeMetrics, len(routes)),
	}
	for _, c := range []prometheus.Collector{m.inFlight, m.requests, m.seconds, m.errors} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for i := range routes {
		r := &routes[i]
		m.routes[r] = &routeMetrics{all: m, path: r.Path, method: r.Method}
	}
	m.none = &routeMetrics{all: m, path: "none", method: "any"}
	return m, nil
}

func (m *metrics) of(r *route) *routeMetrics { return m.routes[r] }

func (r *routeMetrics) done(status int, took time.Duration) {
	i := classOf(status)
	s := r.classes[i].Load()
	if s == nil {
		class := string(rune('1'+i)) + "xx"
		s = &series{r.all.requests.WithLabelValues(r.path, r.method, class), r.all.seconds.WithLabelValues(r.path, r.method, class)}
		r.classes[i].Store(s) // whoever is first: both find the same series
	}
	s.requests.Inc()
	s.seconds.Observe(took.Seconds())
}
