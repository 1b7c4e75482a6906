package estate

import (
	"fmt"
	"testing"
	"time"
)

// However many resources an HMC names, in lists or in notifications, no more are known than the largest sites have, and what is
// known goes on as before.
func TestEstateIsBounded(t *testing.T) {
	e := New()
	at := time.Now()
	uri := func(i int) string { return fmt.Sprint("/api/partitions/", i) }
	l := &Listing{HMC: "a", Asked: at, Complete: map[string]bool{}}
	for i := range 2 * maxResources {
		l.Resources = append(l.Resources, Resource{URI: uri(i), Class: ClassPartition, Name: fmt.Sprint(i), Status: "active"})
	}
	e.Learn(l)
	e.Compare(l, at, func(string) bool { return false })
	for i := range 2 * maxResources {
		other := uri(i + maxResources)
		e.Announce(other+"x", at)
		e.Remove(other+"y", at)
		if _, is, known := e.SetStatus(&Resource{URI: other, Class: ClassPartition, Name: "n", Status: "stopped", Since: at}, at); known || is.Status != "stopped" || is.Name != "n" {
			t.Fatalf("%+v, known %v", is, known)
		}
		e.Update(other, ClassPartition, "n", at, func(r *Resource) { r.Name = "m" })
	}
	if e.Len() != maxResources || len(e.announced) > maxResources || len(e.gone) > maxResources {
		t.Errorf("%d resources, %d announced, %d gone", e.Len(), len(e.announced), len(e.gone))
	}
	if _, is, known := e.SetStatus(&Resource{URI: uri(1), Status: "stopped", Since: at}, at); !known || is.Status != "stopped" {
		t.Errorf("%+v, known %v", is, known)
	}
	stored := 0
	e.Unstored(func(string) bool { return false }, func(_ string, value []byte) {
		if value != nil {
			stored++
		}
	})
	if stored != maxResources {
		t.Errorf("%d are stored", stored)
	}
	// What is gone makes room, and so does the time for what was announced.
	e.Remove(uri(1), at)
	e.Announce("/api/partitions/later", at.Add(2*goneFor))
	if len(e.announced) != 1 || len(e.gone) != 0 {
		t.Errorf("%d announced, %d gone", len(e.announced), len(e.gone))
	}
	if _, _, known := e.SetStatus(&Resource{URI: "/api/partitions/new", Status: "active", Since: at}, at); known || e.Len() != maxResources {
		t.Errorf("%d resources", e.Len())
	}
}
