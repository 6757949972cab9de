package rotation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// A kubelet rotates a certificate at a moment between these parts of its life.
const (
	windowStart = 0.7
	windowEnd   = 0.9
)

// Deadline returns the moment in the window at which a certificate is rotated here. It follows from the certificate
// itself: evenly spread over many certificates, and the same after a restart, where a kubelet would throw its dice
// again.
func Deadline(cert *x509.Certificate) time.Time {
	return at(cert, windowStart+(windowEnd-windowStart)*dice(cert.Raw))
}

// dice makes a number in [0, 1) of what is known: evenly spread over different values, the same for the same.
func dice(from []byte) float64 {
	sum := sha256.Sum256(from)
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}

func at(cert *x509.Certificate, part float64) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(time.Duration(float64(life) * part))
}

// Where nothing is wrong but the way to the API, the same request goes on soon. Where the answer was no, a new request
// would only be one more for somebody to look at.
const (
	minPause    = 2 * time.Second
	maxPause    = time.Minute
	minRefused  = time.Minute
	maxRefused  = 30 * time.Minute
	pauseJitter = 0.2
)

// pause says how long to wait after the nth failure in a row (from 1). dice is uniform in [0, 1).
func pause(n int, refused bool, dice float64) time.Duration {
	d, most := minPause, maxPause
	if refused {
		d, most = minRefused, maxRefused
	}
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	d = min(d, most)
	return d + time.Duration(float64(d)*pauseJitter*dice)
}

// An identity makes few new requests, whatever happens (addresses that come and go, a signer that denies, a disk that
// fails): some at once, then one in a while, 10 in the worst hour. Not counted are what somebody wishes for, and rotations
// that are due, unless the certificates hardly live; but whatever takes the place of a request without an answer is.
const (
	burst     = 4
	refill    = 10 * time.Minute
	shortLife = 3 * time.Minute
)

// budget is what an identity may ask for.
type budget struct {
	full time.Time // when all is there again, if nothing more is taken
	last time.Time // when the last new request was made
}

// wait returns how long until one more may be made for a reason; 0: now.
func (b *budget) wait(why Reason, now time.Time) time.Duration {
	if b.free(why, now) || !now.Before(b.full) {
		return 0
	}
	return max(0, b.full.Sub(now)-(burst-1)*refill)
}

func (b *budget) spend(why Reason, now time.Time) {
	if !b.free(why, now) {
		if b.full.Before(now) {
			b.full = now
		}
		b.full = b.full.Add(refill)
	}
	b.last = now
}

func (b *budget) free(why Reason, now time.Time) bool {
	return why == Wished || why == Due && now.Sub(b.last) >= shortLife
}
