"""AlexNet (Krizhevsky, Sutskever, Hinton 2012), pure functions on JAX."""
