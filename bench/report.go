package main

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// row is a line of the table. Reach is what the project has set itself, "" where it has set nothing.
type row struct {
	what, unit, reach string
	value             float64
	met               bool
}

type curve struct {
	name string
	hist *hdrhistogram.Histogram
}

type report struct {
	rows   []row
	curves []curve
}

func (r *report) add(what string, value float64, unit, reach string, met bool) {
	r.rows = append(r.rows, row{what, unit, reach, value, met})
	fmt.Fprintf(os.Stderr, "%s: %s %s (%s)\n", what, figure(value), unit, reach)
}

func (r *report) info(what string, value float64, unit string) {
	r.rows = append(r.rows, row{what: what, unit: unit, value: value})
	fmt.Fprintf(os.Stderr, "%s: %s %s\n", what, figure(value), unit)
}

func (r *report) series(name string, h *hdrhistogram.Histogram) {
	r.curves = append(r.curves, curve{name, h})
}

func figure(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *report) print(w io.Writer) {
	fmt.Fprintln(w, "\n| what | measured | reach | met |\n| --- | ---: | --- | --- |")
	for _, x := range r.rows {
		met := ""
		if x.reach != "" {
			met = map[bool]string{true: "yes", false: "NO"}[x.met]
		}
		fmt.Fprintf(w, "| %s | %s %s | %s | %s |\n", x.what, figure(x.value), x.unit, x.reach, met)
	}
}

// plot draws latency over percentile, the HDR way: the x axis is log(1/(1-p)), the y axis log milliseconds.
func (r *report) plot(path string) error {
	const width, height, left, top = 900.0, 420.0, 60.0, 20.0
	colours := []string{"#1b6ca8", "#c0392b", "#27864f", "#8e44ad", "#b9770e", "#16727f", "#555555", "#d35400", "#2c3e50", "#7f8c8d"}
	x := func(p float64) float64 { return left + (width-left)*math.Log10(1/(1-p/100))/4 } // up to 99.99 %
	y := func(us float64) float64 {
		return top + (height-top)*(1-(math.Log10(math.Max(us, 10))-1)/5) // 10 µs to 1 s
	}
	type line struct {
		Name, Colour, Points string
		LegendY              float64
	}
	type tick struct {
		X, Y float64
		Text string
	}
	var v struct {
		W, H, Left, Top float64
		Lines           []line
		XTicks, YTicks  []tick
	}
	v.W, v.H, v.Left, v.Top = width, height, left, top
	for i, c := range r.curves {
		var points strings.Builder
		for step := 0; step <= 200; step++ {
			p := 100 * (1 - math.Pow(10, -4*float64(step)/200))
			fmt.Fprintf(&points, "%.1f,%.1f ", x(p), y(float64(c.hist.ValueAtQuantile(p))))
		}
		v.Lines = append(v.Lines, line{c.name, colours[i%len(colours)], points.String(), top + 16*float64(i+1)})
	}
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		v.XTicks = append(v.XTicks, tick{x(p), height, fmt.Sprintf("%g %%", p)})
	}
	for _, us := range []float64{10, 100, 1000, 10_000, 100_000} {
		v.YTicks = append(v.YTicks, tick{left, y(us), fmt.Sprintf("%g ms", us/1000)})
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := svg.Execute(f, v); err != nil {
		return err
	}
	return f.Close()
}

var svg = template.Must(template.New("svg").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.W}} 450" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
{{range .XTicks}}<line x1="{{.X}}" y1="20" x2="{{.X}}" y2="{{.Y}}" stroke="#ddd"/><text x="{{.X}}" y="438" text-anchor="middle">{{.Text}}</text>
{{end}}{{$w := .W}}{{range .YTicks}}<line x1="{{.X}}" y1="{{.Y}}" x2="{{$w}}" y2="{{.Y}}" stroke="#ddd"/><text x="4" y="{{.Y}}">{{.Text}}</text>
{{end}}{{range .Lines}}<polyline points="{{.Points}}" fill="none" stroke="{{.Colour}}" stroke-width="1.5"/><text x="80" y="{{.LegendY}}" fill="{{.Colour}}">{{.Name}}</text>
{{end}}</svg>
`))
