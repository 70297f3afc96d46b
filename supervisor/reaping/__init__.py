"""What removes containers that nobody owns: names not forgotten, the guard process, the reconciler."""
