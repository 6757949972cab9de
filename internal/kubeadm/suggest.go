package kubeadm

import (
	"maps"
	"slices"
	"strings"
)

// suggest returns the name that was probably meant, or "".
func suggest(name string, known []string) string {
	if len(name) > maxQuoted {
		return ""
	}
	best, bestDistance := "", 1+min(len(name)/4, 2)
	for _, candidate := range slices.Sorted(slices.Values(known)) {
		if strings.EqualFold(name, candidate) {
			return candidate
		}
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or replace to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// home returns where in kubeadm's documents a field of that name belongs, or "" when there is no
// such place, or several.
func home(name string) string {
	all := schemas()
	places := append(placesOf(name, kindCluster, all[kindCluster]), placesOf(name, kindInit, all[kindInit])...)
	if len(places) != 1 {
		return ""
	}
	return places[0]
}

func placesOf(name, path string, s shape) []string {
	var places []string
	for _, field := range slices.Sorted(maps.Keys(s.fields)) {
		if strings.EqualFold(name, field) {
			places = append(places, path+"."+field)
		}
		places = append(places, placesOf(name, path+"."+field, s.fields[field])...)
	}
	return places
}
