package supervise

import "time"

// timers orders the workers that have something due, the earliest first. It is
// a heap of slot numbers; each slot knows its place in it, so a worker has at
// most one timer and a timer that is not wanted any more is taken out.
type timers struct {
	slots []slot
	heap  []int32
}

// noTimer is the place of a slot that is not in the heap.
const noTimer = -1

// next returns the slot that is due first.
func (t *timers) next() (i int32, due time.Duration, ok bool) {
	if len(t.heap) == 0 {
		return 0, 0, false
	}
	i = t.heap[0]
	return i, t.slots[i].due, true
}

// update puts slot i where its due belongs, or takes it out.
func (t *timers) update(i int32) {
	s := &t.slots[i]
	switch {
	case s.due == 0 && s.timer == noTimer:
	case s.due == 0:
		t.remove(int(s.timer))
		s.timer = noTimer
	case s.timer == noTimer:
		t.heap = append(t.heap, i)
		s.timer = int32(len(t.heap) - 1)
		t.up(int(s.timer))
	default:
		t.up(int(s.timer))
		t.down(int(s.timer))
	}
}

func (t *timers) remove(place int) {
	last := len(t.heap) - 1
	t.swap(place, last)
	t.heap = t.heap[:last]
	if place < last {
		t.up(place)
		t.down(place)
	}
}

func (t *timers) up(place int) {
	for place > 0 {
		parent := (place - 1) / 2
		if !t.less(place, parent) {
			return
		}
		t.swap(place, parent)
		place = parent
	}
}

func (t *timers) down(place int) {
	for {
		child := 2*place + 1
		if child+1 < len(t.heap) && t.less(child+1, child) {
			child++
		}
		if child >= len(t.heap) || !t.less(child, place) {
			return
		}
		t.swap(place, child)
		place = child
	}
}

func (t *timers) less(a, b int) bool { return t.slots[t.heap[a]].due < t.slots[t.heap[b]].due }

func (t *timers) swap(a, b int) {
	t.heap[a], t.heap[b] = t.heap[b], t.heap[a]
	t.slots[t.heap[a]].timer = int32(a)
	t.slots[t.heap[b]].timer = int32(b)
}
