package controller

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubepki/kubepki/internal/csr"
)

// watched is a store whose follower is like the approver, and whose API has what is in there, in that order.
type watched struct {
	*requestStore
	there []*certificatesv1.CertificateSigningRequest
	world *csr.World
	lost  []string
	reads int // of single requests
	// onRead, if set, is called before the API answers a read.
	onRead func()
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{world: csr.NewWorld(csr.DefaultPolicy())}
	api := fake.NewClientset()
	api.PrependReactor("list", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		options := a.(clienttesting.ListActionImpl).ListOptions
		selector, err := fields.ParseSelector(options.FieldSelector)
		if err != nil {
			return true, nil, err
		}
		if signer, _ := selector.RequiresExactMatch("spec.signerName"); signer != csr.KubeletServing || options.Limit == 0 {
			t.Errorf("%q, at most %d, are listed", options.FieldSelector, options.Limit)
		}
		return true, w.page(options.Continue), nil
	})
	api.PrependReactor("get", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r, err := w.one(a.(clienttesting.GetAction).GetName())
		return true, r, err
	})
	w.requestStore = newRequestStore(csr.KubeletServing, api.CertificatesV1().CertificateSigningRequests(), slog.New(slog.DiscardHandler))
	w.follow(&follower{
		took: func(r *certificatesv1.CertificateSigningRequest, _ queue) (bool, string) {
			if _, err := w.world.Add(r); err != nil {
				t.Error(err)
			}
			return csr.IsPending(r) && !w.world.IsSuperseded(r.Name), w.world.Replaces(r.Name)
		},
		lost: func(r *certificatesv1.CertificateSigningRequest, _ queue) {
			w.lost = append(w.lost, r.Name)
			w.world.Remove(r)
		},
	})
	return w
}

func (w *watched) one(name string) (*certificatesv1.CertificateSigningRequest, error) {
	w.reads++
	if w.onRead != nil {
		w.onRead()
	}
	for _, r := range w.there {
		if r.Name == name {
			return r.DeepCopy(), nil
		}
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("certificatesigningrequests"), name)
}

// page returns three requests from a number on.
func (w *watched) page(from string) *certificatesv1.CertificateSigningRequestList {
	first, _ := strconv.Atoi(from)
	list := &certificatesv1.CertificateSigningRequestList{ListMeta: metav1.ListMeta{ResourceVersion: "77"}}
	for i := first; i < min(first+3, len(w.there)); i++ {
		list.Items = append(list.Items, *w.there[i].DeepCopy())
	}
	if first+3 < len(w.there) {
		list.Continue = strconv.Itoa(first + 3)
	}
	return list
}

func (w *watched) relist(t *testing.T, there ...*certificatesv1.CertificateSigningRequest) {
	t.Helper()
	w.there = there
	if version, err := w.list(t.Context()); err != nil || version != "77" {
		t.Fatalf("%q, %v", version, err)
	}
}

// numbered is a request of one node, the later ones the newer.
func numbered(t *testing.T, number int) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	return serving(t, fmt.Sprintf("csr-%02d", number), func(r *certificatesv1.CertificateSigningRequest) {
		r.UID = types.UID(fmt.Sprintf("uid-%02d", number))
		r.CreationTimestamp = metav1.Time{Time: noon.Add(time.Duration(number) * time.Second)}
	})
}

func (w *watched) full() []string {
	var names []string
	for name, known := range w.held {
		if known.request != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// In whatever order duplicates come, the newest alone is held.
func TestOfDuplicatesTheNewestIsHeld(t *testing.T) {
	const count = 20
	var ascending []int
	for i := range count {
		ascending = append(ascending, i)
	}
	descending := slices.Clone(ascending)
	slices.Reverse(descending)
	for name, order := range map[string][]int{"ascending": ascending, "descending": descending, "shuffled": rand.New(rand.NewPCG(1, 2)).Perm(count)} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t)
			var all []*certificatesv1.CertificateSigningRequest
			for _, number := range order {
				all = append(all, numbered(t, number))
			}
			w.relist(t, all[:count/2]...) // what is there at the start
			w.there = all
			for _, r := range all[count/2:] { // what comes later
				w.take(r.DeepCopy())
			}
			if full := w.full(); !slices.Equal(full, []string{"csr-19"}) || len(w.held) != count {
				t.Errorf("%v of %d are held", full, len(w.held))
			}
			if r, err := w.Get(t.Context(), "csr-19"); err != nil || len(r.Spec.Request) == 0 || w.reads != 0 {
				t.Errorf("the newest: %v, %d reads", err, w.reads)
			}
			for range 2 { // the second time it is known
				if r, err := w.Get(t.Context(), "csr-18"); err != nil || len(r.Spec.Request) == 0 || w.reads != 1 {
					t.Errorf("the one before: %v, %d reads", err, w.reads)
				}
			}
		})
	}
}

func TestNobodyReadsWhatIsDecided(t *testing.T) {
	w := newWatched(t)
	r := numbered(t, 1)
	w.relist(t, r)
	decided(certificatesv1.CertificateDenied)(r)
	w.take(r)
	if _, err := w.Get(t.Context(), r.Name); !apierrors.IsNotFound(err) || w.reads != 0 || len(w.full()) != 0 {
		t.Errorf("%v, %d reads, %v are held", err, w.reads, w.full())
	}
}

// What was read is older than what is told while it is read.
func TestAReadDoesNotBringBackWhatHasChanged(t *testing.T) {
	w := newWatched(t)
	w.relist(t, numbered(t, 0), numbered(t, 1))
	w.onRead = func() {
		r := numbered(t, 0)
		decided(certificatesv1.CertificateApproved)(r)
		w.take(r)
	}
	if _, err := w.Get(t.Context(), "csr-00"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Get(t.Context(), "csr-00"); !apierrors.IsNotFound(err) || w.reads != 1 {
		t.Errorf("%v, %d reads", err, w.reads)
	}
}

// The API refused a verdict on a request, because it has another version: that one is seen next, told or not.
func TestWhatIsOutdatedIsReadAgain(t *testing.T) {
	w := newWatched(t)
	r := numbered(t, 1)
	w.relist(t, r)
	judged, err := w.Get(t.Context(), r.Name)
	if err != nil {
		t.Fatal(err)
	}
	decided(certificatesv1.CertificateApproved)(r)
	r.ResourceVersion = "later"
	w.there = []*certificatesv1.CertificateSigningRequest{r}
	w.outdated(judged)
	if now, err := w.Get(t.Context(), r.Name); err != nil || csr.IsPending(now) || w.reads != 1 {
		t.Errorf("%v, %v, %d reads", now, err, w.reads)
	}
	w.outdated(judged) // the one that is held now is not
	if _, err := w.Get(t.Context(), r.Name); err != nil || w.reads != 1 {
		t.Errorf("%v, %d reads", err, w.reads)
	}
}

// A watch that was interrupted tells of nothing that went meanwhile; the next list does.
func TestWhatIsNoLongerListedIsLost(t *testing.T) {
	w := newWatched(t)
	w.relist(t, numbered(t, 1), numbered(t, 2))
	w.relist(t, numbered(t, 1))
	if !slices.Equal(w.lost, []string{"csr-02"}) {
		t.Errorf("%v is lost", w.lost)
	}
	if r, err := w.Get(t.Context(), "csr-01"); err != nil || len(r.Spec.Request) == 0 {
		t.Errorf("the one before it: %v", err)
	}
	if _, err := w.Get(t.Context(), "csr-02"); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}
