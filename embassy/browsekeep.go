package embassy

import (
	"container/list"
	"context"
	"slices"
	"sync"
)

// turn is a lock whose wait ends with its context. Its capacity is one.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

// pool keeps what is costly to make and takes room. The least recently used
// makes way; what is in use stays, and who needs its room waits. Safe for
// concurrent use.
type pool[K comparable, V any] struct {
	room int64 // bytes
	drop func(K, V)

	mu    sync.Mutex
	used  int64
	order []*pooled[K, V] // least recently used first
	freed chan struct{}   // closed when somebody has given something back
}

// pooled is one place of a pool. Its value is that of V until a user who has
// the turn sets it.
type pooled[K comparable, V any] struct {
	turn
	key   K
	value V
	cost  int64
	users int
}

func newPool[K comparable, V any](room int64, drop func(K, V)) *pool[K, V] {
	return &pool[K, V]{room: room, drop: drop, freed: make(chan struct{})}
}

// take returns the place of a key, made if it is not there. The caller gives
// it back. What is larger than the room has it alone.
func (p *pool[K, V]) take(ctx context.Context, key K, cost int64) (*pooled[K, V], error) {
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.order, func(e *pooled[K, V]) bool { return e.key == key })
		if i >= 0 {
			e := p.order[i]
			p.order = append(slices.Delete(p.order, i, i+1), e)
			e.users++
			p.mu.Unlock()
			return e, nil
		}
		if p.clear(cost); p.used+cost <= p.room || len(p.order) == 0 {
			e := &pooled[K, V]{turn: newTurn(), key: key, cost: cost, users: 1}
			p.order = append(p.order, e)
			p.used += cost
			p.mu.Unlock()
			return e, nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// clear drops what nobody uses until there is room.
func (p *pool[K, V]) clear(cost int64) {
	p.remove(func(e *pooled[K, V]) bool { return p.used+cost > p.room })
}

func (p *pool[K, V]) remove(which func(*pooled[K, V]) bool) {
	p.order = slices.DeleteFunc(p.order, func(e *pooled[K, V]) bool {
		if e.users > 0 || !which(e) {
			return false
		}
		p.used -= e.cost
		p.drop(e.key, e.value)
		return true
	})
}

func (p *pool[K, V]) give(e *pooled[K, V]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.users--
	close(p.freed)
	p.freed = make(chan struct{})
}

// grow says what the value of a place that is in use costs beyond what it was
// taken for.
func (p *pool[K, V]) grow(e *pooled[K, V], cost int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used += cost
	e.cost += cost
	p.clear(0)
}

// forget drops what nobody uses of some keys.
func (p *pool[K, V]) forget(which func(K) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(func(e *pooled[K, V]) bool { return which(e.key) })
}

// recent keeps the most recently used values that fit into its room. Who gets
// a value must not change it. Safe for concurrent use.
type recent[K comparable, V any] struct {
	room int // bytes

	mu    sync.Mutex
	used  int
	order list.List // of *kept[K, V], least recently used first
	by    map[K]*list.Element
}

type kept[K comparable, V any] struct {
	key   K
	value V
	cost  int
}

func newRecent[K comparable, V any](room int) *recent[K, V] {
	return &recent[K, V]{room: room, by: map[K]*list.Element{}}
}

func (c *recent[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[key]
	if e == nil {
		return value, false
	}
	c.order.MoveToBack(e)
	return e.Value.(*kept[K, V]).value, true
}

func (c *recent[K, V]) add(key K, value V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[key] != nil {
		return
	}
	c.by[key] = c.order.PushBack(&kept[K, V]{key, value, cost})
	for c.used += cost; c.used > c.room; {
		old := c.order.Remove(c.order.Front()).(*kept[K, V])
		delete(c.by, old.key)
		c.used -= old.cost
	}
}
