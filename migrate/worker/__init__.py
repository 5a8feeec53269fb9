"""The far end of the move: processes that run beside Resque's workers."""
