package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the result.
type row struct {
	what     string
	measured string
	target   string
	ok       bool // with a target only
}

// note is a figure without a target.
func note(what, format string, args ...any) row {
	return row{what: what, measured: fmt.Sprintf(format, args...)}
}

// atLeast and atMost hold a figure against a target.
func atLeast(what, format string, value, target float64) row {
	return row{what, fmt.Sprintf(format, value), "at least " + fmt.Sprintf(format, target), value >= target}
}

func atMost(what, format string, value, target float64) row {
	return row{what, fmt.Sprintf(format, value), "at most " + fmt.Sprintf(format, target), value <= target}
}

// report prints the table and returns how many targets were missed.
func (b *bench) report(rows []row) (missed int, err error) {
	fmt.Printf("one control plane, kubepki beside it on the same machine; medians of %d\n", b.sizes.pairs)
	if !b.sizes.judged {
		fmt.Println("small numbers: nothing is judged")
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		verdict := ""
		if r.target != "" && b.sizes.judged {
			verdict = "PASS"
			if !r.ok {
				verdict = "MISS"
				missed++
			}
		}
		fmt.Fprintln(table, strings.Join([]string{r.what, r.measured, r.target, verdict}, "\t"))
	}
	return missed, table.Flush()
}

// quantile returns the value below which the share q of all values lies: 0.5 is the median.
// There is at least one value.
func quantile[T float64 | time.Duration](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median[T float64 | time.Duration](values []T) T { return quantile(values, 0.5) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
