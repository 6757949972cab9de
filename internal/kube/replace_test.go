package kube

import (
	"context"
	"strconv"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// shelf holds one Secret as an API server would, and lets others interfere between a read
// and the write that follows it.
type shelf struct {
	object    *core.Secret
	version   int
	frozen    bool   // updates are invalid, as with another type
	interfere func() // called once after a Get
	writes    int
}

var secretResource = schema.GroupResource{Resource: "secrets"}

func (s *shelf) put(o *core.Secret, uid types.UID) *core.Secret {
	s.version++
	s.object = o.DeepCopy()
	s.object.UID, s.object.ResourceVersion = uid, strconv.Itoa(s.version)
	return s.object.DeepCopy()
}

func (s *shelf) Get(_ context.Context, name string, _ meta.GetOptions) (*core.Secret, error) {
	var found *core.Secret
	if s.object != nil {
		found = s.object.DeepCopy()
	}
	if s.interfere != nil {
		s.interfere()
		s.interfere = nil
	}
	if found == nil {
		return nil, apierrors.NewNotFound(secretResource, name)
	}
	return found, nil
}

func (s *shelf) Create(_ context.Context, o *core.Secret, _ meta.CreateOptions) (*core.Secret, error) {
	if s.object != nil {
		return nil, apierrors.NewAlreadyExists(secretResource, o.Name)
	}
	s.writes++
	return s.put(o, types.UID("uid"+strconv.Itoa(s.version))), nil
}

func (s *shelf) Update(_ context.Context, o *core.Secret, _ meta.UpdateOptions) (*core.Secret, error) {
	switch {
	case s.object == nil:
		return nil, apierrors.NewNotFound(secretResource, o.Name)
	case s.frozen:
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, o.Name, nil)
	// Without a version the server would overwrite whatever is there.
	case o.ResourceVersion != "" && o.ResourceVersion != s.object.ResourceVersion, o.UID != "" && o.UID != s.object.UID:
		return nil, apierrors.NewConflict(secretResource, o.Name, nil)
	}
	s.writes++
	return s.put(o, s.object.UID), nil
}

func (s *shelf) Delete(_ context.Context, name string, o meta.DeleteOptions) error {
	switch p := o.Preconditions; {
	case s.object == nil:
		return apierrors.NewNotFound(secretResource, name)
	case p != nil && (*p.UID != s.object.UID || *p.ResourceVersion != s.object.ResourceVersion):
		return apierrors.NewConflict(secretResource, name, nil)
	}
	s.object, s.frozen = nil, false
	return nil
}

func TestReplacingLooksAgainWhenOthersInterfere(t *testing.T) {
	there := func(s *shelf) { s.put(&core.Secret{ObjectMeta: meta.ObjectMeta{Name: "x"}}, "old") }
	for name, c := range map[string]struct {
		begin     func(*shelf)
		interfere func(*shelf)
	}{
		"nothing is there":                        {func(*shelf) {}, nil},
		"it is there":                             {there, nil},
		"somebody makes it meanwhile":             {func(*shelf) {}, there},
		"somebody changes it meanwhile":           {there, func(s *shelf) { s.put(s.object, s.object.UID) }},
		"somebody removes it meanwhile":           {there, func(s *shelf) { s.object = nil }},
		"somebody makes another one meanwhile":    {there, func(s *shelf) { s.put(s.object, "new") }},
		"it cannot be changed":                    {func(s *shelf) { there(s); s.frozen = true }, nil},
		"it cannot be changed, but others can":    {func(s *shelf) { there(s); s.frozen = true }, func(s *shelf) { s.put(s.object, s.object.UID) }},
		"it cannot be changed, and others remove": {func(s *shelf) { there(s); s.frozen = true }, func(s *shelf) { s.object, s.frozen = nil, false }},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{}
			c.begin(s)
			if c.interfere != nil {
				s.interfere = func() { c.interfere(s) }
			}
			want := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "x"}, Data: map[string][]byte{"mine": nil}}
			if err := replace(t.Context(), s, want); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.object.Data["mine"]; !ok || s.writes != 1 {
				t.Errorf("%d writes left %v", s.writes, s.object)
			}
		})
	}
	t.Run("an object that is changed without end is given up", func(t *testing.T) {
		s := &shelf{}
		there(s)
		err := replace(t.Context(), busyShelf{s}, &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "x"}})
		if !apierrors.IsConflict(err) || s.writes != 0 {
			t.Errorf("%d writes, %v", s.writes, err)
		}
	})
}

// busyShelf changes after every look.
type busyShelf struct{ *shelf }

func (b busyShelf) Get(ctx context.Context, name string, o meta.GetOptions) (*core.Secret, error) {
	found, err := b.shelf.Get(ctx, name, o)
	b.put(b.object, b.object.UID)
	return found, err
}
