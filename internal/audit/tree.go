package audit

import (
	"crypto/sha256"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is what is needed of a hash tree (RFC 6962) to add to it and to know its root: the roots of the complete
// subtrees that the leaves fall into, the largest first. They are at most 63, however many leaves there are, so the
// log needs no file of hashes: each segment begins with the tree of all before it.
type tree struct {
	n      int64
	hashes []tlog.Hash
}

// width is how many subtrees a tree of n leaves has: one for each bit that is set.
func width(n int64) (w int) {
	for ; n != 0; n &= n - 1 {
		w++
	}
	return w
}

// add adds a leaf. visit, unless nil, sees each node as it becomes complete.
func (t *tree) add(leaf tlog.Hash, visit func(level int, index int64, h tlog.Hash)) {
	h := leaf
	if visit != nil {
		visit(0, t.n, h)
	}
	for level, n := 0, t.n; n&1 == 1; n >>= 1 {
		last := len(t.hashes) - 1
		h = tlog.NodeHash(t.hashes[last], h)
		t.hashes = t.hashes[:last]
		if level++; visit != nil {
			visit(level, n>>1, h)
		}
	}
	t.hashes = append(t.hashes, h)
	t.n++
}

// root is the hash of the whole tree.
func (t *tree) root() tlog.Hash {
	if t.n == 0 {
		return sha256.Sum256(nil)
	}
	last := len(t.hashes) - 1
	h := t.hashes[last]
	for i := last - 1; i >= 0; i-- {
		h = tlog.NodeHash(t.hashes[i], h)
	}
	return h
}

func (t *tree) clone() tree { return tree{t.n, slices.Clone(t.hashes)} }

func (t *tree) equal(o *tree) bool { return t.n == o.n && slices.Equal(t.hashes, o.hashes) }
