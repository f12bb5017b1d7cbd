"""The linear algebra of the methods: batched, with gradients of its own where that is faster."""
