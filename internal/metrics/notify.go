package metrics

import "github.com/prometheus/client_golang/prometheus"

// Count reads one number that only grows.
type Count struct {
	Result string
	Read   func() uint64
}

// CountNotify adds what has become of the sd_notify messages of workers, which are read
// when somebody asks.
func (m *Metrics) CountNotify(counts ...Count) {
	for _, c := range counts {
		m.all.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "notify_messages_total",
			Help:        "Messages of sd_notify, and what in them was not taken: names, values, processes and descriptors.",
			ConstLabels: prometheus.Labels{"result": c.Result},
		}, func() float64 { return float64(c.Read()) }))
	}
}
