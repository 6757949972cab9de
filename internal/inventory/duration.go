package inventory

import (
	"fmt"
	"time"
)

// shortDuration writes a length of time as kubectl and kubeadm do: one or two units of
// whole numbers, cut and never rounded up. What lies more than a second back is
// "<invalid>".
func shortDuration(d time.Duration) string {
	seconds := int64(d / time.Second)
	minutes, hours := seconds/60, seconds/3600
	days := hours / 24
	switch {
	case seconds < -1:
		return "<invalid>"
	case seconds <= 0:
		return "0s"
	case minutes < 2:
		return fmt.Sprintf("%ds", seconds)
	case minutes < 10:
		return twoUnits(minutes, "m", seconds%60, "s")
	case hours < 3:
		return fmt.Sprintf("%dm", minutes)
	case hours < 8:
		return twoUnits(hours, "h", minutes%60, "m")
	case hours < 48:
		return fmt.Sprintf("%dh", hours)
	case days < 8:
		return twoUnits(days, "d", hours%24, "h")
	case days < 2*365:
		return fmt.Sprintf("%dd", days)
	case days < 8*365:
		return twoUnits(days/365, "y", days%365, "d")
	}
	return fmt.Sprintf("%dy", days/365)
}

func twoUnits(big int64, bigUnit string, small int64, smallUnit string) string {
	if small == 0 {
		return fmt.Sprintf("%d%s", big, bigUnit)
	}
	return fmt.Sprintf("%d%s%d%s", big, bigUnit, small, smallUnit)
}
