"""The sensing half of every backend: what can be seen of a cluster. No verb here hurts."""
