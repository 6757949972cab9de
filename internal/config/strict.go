package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// decode reads the one document in data, of that kind, onto the defaults in c, a pointer to a struct. JSON's own decoder would take fields in any
// case, the second of two spellings over the first, and has no paths in its errors; check does it better.
func decode(data []byte, want string, c any) error {
	if len(data) > maxSize {
		return fmt.Errorf("the configuration has more than %d bytes", maxSize)
	}
	if !utf8.Valid(data) {
		return errors.New("the configuration is not in UTF-8")
	}
	if err := oneDocument(string(data)); err != nil {
		return err
	}
	plain, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return err
	}
	var value any
	numbers := json.NewDecoder(bytes.NewReader(plain))
	numbers.UseNumber()
	if err := numbers.Decode(&value); err != nil {
		return err
	}
	// What another version holds says less than that it is another one.
	top, _ := value.(map[string]any)
	version, _ := top["apiVersion"].(string)
	kind, _ := top["kind"].(string)
	if version != APIVersion || kind != want {
		return fmt.Errorf("apiVersion %q, kind %q is not %s, %s", version, kind, APIVersion, want)
	}
	if err := check("", value, reflect.TypeOf(c).Elem()); err != nil {
		return err
	}
	if plain, err = json.Marshal(value); err != nil {
		return err
	}
	return json.Unmarshal(plain, c)
}

// oneDocument refuses a second YAML document, of which a decoder would see nothing. Lines end where YAML says
// that they do.
func oneDocument(text string) error {
	started, ended := false, false
	text = strings.TrimPrefix(text, "\ufeff")
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune("\r\n\u0085\u2028\u2029", r) }) {
		begins, ends := isMarker(line, "---"), isMarker(line, "...")
		if begins {
			line = line[len("---"):]
		}
		line = strings.TrimLeft(line, " \t")
		blank := line == "" || line[0] == '#' || line[0] == '%' && !started // comment, directive
		switch {
		case ends:
			ended = started
		case begins && started, ended && !blank:
			return errors.New("the configuration holds more than one document")
		case !blank:
			started = true
		}
	}
	return nil
}

func isMarker(line, marker string) bool {
	rest, ok := strings.CutPrefix(line, marker)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t')
}

// check compares a document with the type that it is meant for, field by field. It removes fields that are null:
// not every type takes that for the default.
func check(path string, value any, t reflect.Type) error {
	switch {
	case value == nil:
		return fmt.Errorf("%s: is null", path)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return checkLeaf(path, value, t)
	case t.Kind() == reflect.Struct:
		fields, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: holds no fields", path)
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			below := strings.TrimPrefix(path+"."+name, ".")
			field, known := fieldByName(t, name)
			if !known {
				return fmt.Errorf("unknown field %q", below)
			}
			if fields[name] == nil {
				delete(fields, name)
				continue
			}
			if err := check(below, fields[name], field); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s: is not a list", path)
		}
		for i, element := range list {
			if err := check(fmt.Sprintf("%s[%d]", path, i), element, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return checkLeaf(path, value, t)
}

func checkLeaf(path string, value any, t reflect.Type) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	err = json.Unmarshal(data, reflect.New(t).Interface())
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: is a %s where a value of type %s belongs", path, wrong.Value, wrong.Type.Kind())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func fieldByName(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); tag == name {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}
