//! MNIST, its like and the embedded digits: checked, ordered, batched.
