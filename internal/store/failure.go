package store

import (
	"context"
	"errors"

	"strongroom/internal/failure"
)

// Failure gives what a transaction returned its kind and a message for the caller. A failure that fn made passes
// as it is, and so does nil.
func Failure(err error) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*failure.Error](err); ours {
		return err
	}
	switch {
	case errors.Is(err, ErrFull):
		return failure.Wrap(failure.Unavailable, err, "the server's disk is full; nothing was changed. Free space and try again")
	case errors.Is(err, ErrFailed):
		return failure.Wrap(failure.StorageFailed, err, "the server could not make a write durable and is stopping; whether the change was kept is unknown. When it is back, look at the state and try again")
	case errors.Is(err, ErrClosed):
		return failure.Wrap(failure.Unavailable, err, "the server is stopping; try again")
	case errors.Is(err, ErrCorrupt):
		return failure.Wrap(failure.Tampered, err, "the server's database is damaged; restore it from a copy")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return failure.Wrap(failure.Unavailable, err, "the call was given up before it was done; try again")
	}
	return failure.Wrap(failure.Internal, err, "the server's database failed; its log has the cause")
}
