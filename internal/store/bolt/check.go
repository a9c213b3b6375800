package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// check reads a whole bbolt file and reports the first thing in it that does not hold. It runs before bbolt
// sees the file, because bbolt believes its pages: a changed page number can send it into an endless descent,
// and its own Check runs in a goroutine where a fault ends the process.
//
// It holds when: a meta page is valid, every page below the high-water mark is used exactly once (by the tree,
// by the list of free pages, or as free), keys are in order, all elements lie where bbolt puts them, and every
// record matches its checksum. Work and memory are bounded by the size of the file.
//
// The format (bbolt v1.5.0, internal/common; integers in the byte order of the machine):
//
//	page    id 8 ‖ flags 2 ‖ count 2 ‖ overflow 4 ‖ body
//	meta    magic 4 ‖ version 4 ‖ page size 4 ‖ flags 4 ‖ root bucket 16 ‖ freelist 8 ‖ high-water mark 8 ‖
//	        transaction 8 ‖ FNV-64a of the above 8
//	branch  (position 4 ‖ key size 4 ‖ page 8)…, positions counted from their own element
//	leaf    (flags 4 ‖ position 4 ‖ key size 4 ‖ value size 4)…
//	bucket  root page 8 ‖ sequence 8 ‖ where the root page is 0: a leaf page inline
func check(r io.ReaderAt, size int64) error {
	m, err := readMeta(r)
	if err != nil {
		return err
	}
	if int64(m.pages) > size/int64(m.pageSize) {
		return fmt.Errorf("it was cut: %d bytes are there, and %d pages of %d bytes in use", size, m.pages, m.pageSize)
	}
	c := &checker{r: r, meta: m, used: make([]bool, m.pages)}
	c.used[0], c.used[1] = true, true
	if err := c.freelist(); err != nil {
		return err
	}
	if err := c.tree(m.root, nil, nil, 0, c.bucket); err != nil {
		return err
	}
	for id, used := range c.used {
		if !used {
			return fmt.Errorf("page %d belongs to nothing", id)
		}
	}
	return nil
}

const (
	pageHeader    = 16
	elementSize   = 16
	branchPage    = 0x01
	leafPage      = 0x02
	freelistPage  = 0x10
	bucketElement = 0x01
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	maxDepth      = 64 // with at least two children each, more than any disk holds
)

var order = binary.NativeEndian

type meta struct {
	pageSize    int
	root        uint64
	freePages   uint64 // the page of the list of free pages
	pages       uint64 // the high-water mark
	transaction uint64
}

// readMeta returns the newer of the two meta pages that holds, as bbolt does: the other may have been torn by a
// crash.
func readMeta(r io.ReaderAt) (meta, error) {
	var best meta
	found := false
	try := func(offset int64) {
		buf := make([]byte, pageHeader+64)
		if _, err := r.ReadAt(buf, offset); err != nil {
			return
		}
		b := buf[pageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:56])
		if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion || order.Uint64(b[56:]) != sum.Sum64() {
			return
		}
		m := meta{
			pageSize:    int(order.Uint32(b[8:])),
			root:        order.Uint64(b[16:]),
			freePages:   order.Uint64(b[32:]),
			pages:       order.Uint64(b[40:]),
			transaction: order.Uint64(b[48:]),
		}
		if !found || m.transaction > best.transaction {
			best, found = m, true
		}
	}
	try(0)
	if found {
		try(int64(best.pageSize))
	} else {
		for page := int64(1 << 10); page <= 1<<24 && !found; page <<= 1 {
			try(page)
		}
	}
	switch {
	case !found:
		return best, errors.New("it is no database, or both of its meta pages are damaged")
	case best.pageSize < 1<<10 || best.pageSize > 1<<24 || best.pageSize&(best.pageSize-1) != 0:
		return best, fmt.Errorf("a page size of %d bytes makes no sense", best.pageSize)
	case best.pages < 4 || best.pages > 1<<40:
		return best, fmt.Errorf("a size of %d pages makes no sense", best.pages)
	}
	return best, nil
}

type checker struct {
	meta
	r    io.ReaderAt
	used []bool
}

// page claims page id with its overflow pages and returns it.
func (c *checker) page(id uint64) (flags uint16, count int, page []byte, err error) {
	var head [pageHeader]byte
	if id < 2 || id >= c.pages {
		return 0, 0, nil, fmt.Errorf("page %d is outside the file", id)
	}
	offset := int64(id) * int64(c.pageSize)
	if _, err := c.r.ReadAt(head[:], offset); err != nil {
		return 0, 0, nil, err
	}
	if got := order.Uint64(head[:]); got != id {
		return 0, 0, nil, fmt.Errorf("page %d says that it is page %d", id, got)
	}
	n := uint64(order.Uint32(head[12:])) + 1
	if n > c.pages-id {
		return 0, 0, nil, fmt.Errorf("page %d runs over the end of the file", id)
	}
	for i := id; i < id+n; i++ {
		if err := c.claim(i); err != nil {
			return 0, 0, nil, err
		}
	}
	page = make([]byte, n*uint64(c.pageSize))
	if _, err := c.r.ReadAt(page, offset); err != nil {
		return 0, 0, nil, err
	}
	return order.Uint16(head[8:]), int(order.Uint16(head[10:])), page, nil
}

func (c *checker) claim(id uint64) error {
	if id < 2 || id >= c.pages {
		return fmt.Errorf("page %d is outside the file", id)
	}
	if c.used[id] {
		return fmt.Errorf("page %d is used twice", id)
	}
	c.used[id] = true
	return nil
}

// freelist claims the list of free pages and every page on it.
func (c *checker) freelist() error {
	flags, n, page, err := c.page(c.freePages)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if flags != freelistPage {
		return fmt.Errorf("page %d is not the list of free pages", c.freePages)
	}
	ids := page[pageHeader:]
	count := uint64(n)
	if n == 0xFFFF { // the true count is the first element
		count = order.Uint64(ids)
		ids = ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("the list of free pages has %d entries in a page of %d bytes", count, len(page))
	}
	for i := range count {
		if err := c.claim(order.Uint64(ids[i*8:])); err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
	}
	return nil
}

// tree walks the pages below id, whose keys must lie in [low, high), and calls leaf for each element in order.
func (c *checker) tree(id uint64, low, high []byte, depth int, leaf func(flags uint32, key, value []byte) error) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d is too deep in the tree", id)
	}
	flags, count, page, err := c.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case leafPage:
		return leafElements(id, count, page, low, high, leaf)
	case branchPage:
	default:
		return fmt.Errorf("page %d is of kind %#x and should be part of the tree", id, flags)
	}
	if count == 0 {
		return fmt.Errorf("page %d branches to nothing", id)
	}
	type child struct {
		key []byte
		id  uint64
	}
	children := make([]child, count)
	data := packed{page, pageHeader + count*elementSize}
	for i := range children {
		at := pageHeader + i*elementSize
		if at+elementSize > len(page) {
			return fmt.Errorf("page %d has %d elements, more than it holds", id, count)
		}
		key, err := data.next(at, order.Uint32(page[at:]), order.Uint32(page[at+4:]))
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		if i > 0 && bytes.Compare(key, children[i-1].key) <= 0 {
			return fmt.Errorf("page %d: keys are out of order", id)
		}
		children[i] = child{key, order.Uint64(page[at+8:])}
	}
	for i, ch := range children {
		below := high
		if i+1 < len(children) {
			below = children[i+1].key
		}
		if bytes.Compare(ch.key, low) < 0 || below != nil && bytes.Compare(ch.key, below) >= 0 {
			return fmt.Errorf("page %d: a key does not fit the page above", id)
		}
		if err := c.tree(ch.id, ch.key, below, depth+1, leaf); err != nil {
			return err
		}
	}
	return nil
}

// leafElements calls leaf for each element of a leaf page.
func leafElements(id uint64, count int, page, low, high []byte, leaf func(flags uint32, key, value []byte) error) error {
	var last []byte
	data := packed{page, pageHeader + count*elementSize}
	for i := range count {
		at := pageHeader + i*elementSize
		if at+elementSize > len(page) {
			return fmt.Errorf("page %d has %d elements, more than it holds", id, count)
		}
		flags, pos, ksize, vsize := order.Uint32(page[at:]), order.Uint32(page[at+4:]), order.Uint32(page[at+8:]), order.Uint32(page[at+12:])
		key, err := data.next(at, pos, ksize)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		value, err := data.next(data.end, 0, vsize)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		if i > 0 && bytes.Compare(key, last) <= 0 || bytes.Compare(key, low) < 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("page %d: keys are out of order", id)
		}
		last = key
		if err := leaf(flags, key, value); err != nil {
			return err
		}
	}
	return nil
}

// packed is the part of a page behind its elements. bbolt writes keys and values there without gaps, in order;
// insisting on it finds a changed count of elements, which else would make a record vanish.
type packed struct {
	page []byte
	end  int // of what was taken so far
}

// next takes n bytes that must begin pos bytes after at, and where the last ended.
func (p *packed) next(at int, pos, n uint32) ([]byte, error) {
	if uint64(at)+uint64(pos) != uint64(p.end) || uint64(p.end)+uint64(n) > uint64(len(p.page)) {
		return nil, errors.New("an element is not where it belongs")
	}
	from := p.end
	p.end += int(n)
	return p.page[from:p.end], nil
}

// bucket walks one top-level bucket: nothing else is at the top of a Strongroom database, and no bucket is below.
func (c *checker) bucket(flags uint32, name, value []byte) error {
	if flags != bucketElement || len(value) < 16 {
		return fmt.Errorf("it holds %.40q, which is no bucket", name)
	}
	record := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return fmt.Errorf("%.80q is no record", key)
		}
		if bytes.Equal(name, recordsBucket) && !holds(key, value) {
			return fmt.Errorf("the record %.80q does not match its checksum", key)
		}
		return nil
	}
	if root := order.Uint64(value); root != 0 {
		return c.tree(root, nil, nil, 0, record)
	}
	inline := value[16:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != leafPage {
		return fmt.Errorf("the bucket %.40q is damaged", name)
	}
	return leafElements(0, int(order.Uint16(inline[10:])), inline, nil, nil, record)
}
