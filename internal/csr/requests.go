package csr

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// requests is what a World knows of the other requests: which are pending, for whom, and what was
// decided for each requester lately. Decisions outlive their requests, so that deleting them does not
// refill a budget.
type requests struct {
	byRequest map[string]*record         // by name of the request
	pending   map[requesterKey][]*record // well-formed ones, oldest first
	byNode    map[string]map[requesterKey]bool
	approved  map[requesterKey]decisions
	denied    map[string]decisions // by user
}

// decisions are times by name and UID of the request.
type decisions map[string]time.Time

// requesterKey says whose requests take turns: a node's own, or those that a bootstrap credential makes
// for one node.
type requesterKey struct{ signer, user, node string }

type record struct {
	key       requesterKey
	name, uid string
	created   time.Time
	readable  bool
	decided   bool
	waiting   bool // in pending
}

func newRequests() requests {
	return requests{
		byRequest: map[string]*record{}, pending: map[requesterKey][]*record{}, byNode: map[string]map[requesterKey]bool{},
		approved: map[requesterKey]decisions{}, denied: map[string]decisions{},
	}
}

// keyOf returns whose turn a request takes. ok is false for one that cannot be read: it never stands before
// another.
func keyOf(r *certificatesv1.CertificateSigningRequest) (key requesterKey, ok bool) {
	key = requesterKey{signer: r.Spec.SignerName, user: r.Spec.Username, node: nodeOf(r.Spec.Username)}
	parsed, perr := read(r.Spec.Request)
	if perr == nil && key.node == "" {
		key.node = nodeOf(parsed.CommonName)
	}
	return key, perr == nil
}

func (q *requests) addRequest(r *certificatesv1.CertificateSigningRequest) []string {
	decided := !IsPending(r)
	known := q.byRequest[r.Name]
	switch {
	case known != nil && known.uid == string(r.UID) && r.UID != "":
		if known.decided == decided {
			return nil
		}
	default:
		q.removeRequest(r.Name)
		known = &record{name: r.Name, uid: string(r.UID), created: r.CreationTimestamp.Time}
		known.key, known.readable = keyOf(r)
		q.byRequest[r.Name] = known
	}
	known.decided = decided
	if !decided {
		q.insert(known)
		return nil
	}
	q.withdraw(known)
	q.noteDecision(known, r)
	return []string{known.key.node}
}

// noteDecision remembers when a request was approved or denied.
func (q *requests) noteDecision(known *record, r *certificatesv1.CertificateSigningRequest) {
	for _, c := range r.Status.Conditions {
		at := c.LastUpdateTime.Time
		if at.IsZero() {
			at = r.CreationTimestamp.Time
		}
		id := r.Name + "/" + string(r.UID)
		switch c.Type {
		case certificatesv1.CertificateApproved:
			if q.approved[known.key] == nil {
				q.approved[known.key] = decisions{}
			}
			q.approved[known.key][id] = at
		case certificatesv1.CertificateDenied:
			if q.denied[known.key.user] == nil {
				q.denied[known.key.user] = decisions{}
			}
			q.denied[known.key.user][id] = at
		}
	}
}

func (q *requests) removeRequest(name string) []string {
	known := q.byRequest[name]
	if known == nil {
		return nil
	}
	delete(q.byRequest, name)
	q.withdraw(known)
	return []string{known.key.node}
}

func (a *record) compare(b *record) int {
	return cmp.Or(a.created.Compare(b.created), strings.Compare(a.name, b.name))
}

func (q *requests) insert(r *record) {
	if r.waiting || !r.readable {
		return
	}
	if q.byNode[r.key.node] == nil {
		q.byNode[r.key.node] = map[requesterKey]bool{}
	}
	q.byNode[r.key.node][r.key] = true
	list := q.pending[r.key]
	at, _ := slices.BinarySearchFunc(list, r, (*record).compare)
	q.pending[r.key] = slices.Insert(list, at, r)
	r.waiting = true
}

func (q *requests) withdraw(r *record) {
	if !r.waiting {
		return
	}
	r.waiting = false
	list := q.pending[r.key]
	if at, found := slices.BinarySearchFunc(list, r, (*record).compare); found {
		list = slices.Delete(list, at, at+1)
	}
	if len(list) == 0 {
		delete(q.pending, r.key)
		if delete(q.byNode[r.key.node], r.key); len(q.byNode[r.key.node]) == 0 {
			delete(q.byNode, r.key.node)
		}
	} else {
		q.pending[r.key] = list
	}
}

// newer returns the name of a newer pending request of the same requester for the same node.
func (q *requests) newer(r *record) (string, bool) {
	list := q.pending[r.key]
	if len(list) == 0 {
		return "", false
	}
	last := list[len(list)-1]
	return last.name, last.name != r.name && last.compare(r) > 0
}

// wait says how long a budget is used up: 0 if it is not.
func (b Budget) wait(times decisions, now time.Time) time.Duration {
	if b.Burst == 0 {
		return 0
	}
	var recent []time.Time
	for _, at := range times {
		if age := now.Sub(at); age < b.Per.Duration && age > -b.Per.Duration {
			recent = append(recent, at)
		}
	}
	if len(recent) < b.Burst {
		return 0
	}
	slices.SortFunc(recent, time.Time.Compare)
	return max(recent[len(recent)-b.Burst].Add(b.Per.Duration).Sub(now), time.Second)
}

// Ref names a request with its signer and its requester.
type Ref struct{ Signer, User, Name string }

// PendingFor returns the pending requests for a node, whoever made them. Those that a newer one replaces are
// left out.
func (w *World) PendingFor(node string) []Ref {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var refs []Ref
	for key := range w.byNode[node] {
		list := w.pending[key]
		refs = append(refs, Ref{key.signer, key.user, list[len(list)-1].name})
	}
	return refs
}

// PendingCount returns how many requests nobody has decided.
func (w *World) PendingCount() int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	count := 0
	for _, r := range w.byRequest {
		if !r.decided {
			count++
		}
	}
	return count
}

// SupersededCounts returns how many pending requests newer ones replace, by signer.
func (w *World) SupersededCounts() map[string]int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	counts := map[string]int{}
	for key, list := range w.pending {
		counts[key.signer] += len(list) - 1
	}
	return counts
}

// Superseded returns the pending requests made before a time that a newer one of the same requester replaces.
func (w *World) Superseded(before time.Time) []Ref {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var refs []Ref
	for key, list := range w.pending {
		for _, r := range list[:len(list)-1] {
			if r.created.Before(before) {
				refs = append(refs, Ref{key.signer, key.user, r.name})
			}
		}
	}
	return refs
}

// Forget drops the memory of decisions that no budget counts any more. A long-running program calls it
// now and then.
func (w *World) Forget(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := func(_ string, at time.Time) bool { return now.Sub(at) >= w.policy.Budgets.PerRequester.Per.Duration }
	for key, times := range w.approved {
		if maps.DeleteFunc(times, old); len(times) == 0 {
			delete(w.approved, key)
		}
	}
	for user, times := range w.denied {
		if maps.DeleteFunc(times, old); len(times) == 0 {
			delete(w.denied, user)
		}
	}
}

// IsPending says whether a request waits for a verdict.
func IsPending(r *certificatesv1.CertificateSigningRequest) bool {
	return !isDecided(r) && r.DeletionTimestamp == nil
}

// isDecided says whether there is nothing left to decide.
func isDecided(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
	})
}

// nodePrefix begins the user names of nodes.
const nodePrefix = "system:node:"

// nodeOf returns the node that a common name or user name is of; empty if of none.
func nodeOf(name string) string {
	if node, ok := strings.CutPrefix(name, nodePrefix); ok && isNodeName(node) {
		return node
	}
	return ""
}
