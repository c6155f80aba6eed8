"""The steps of a transformer between its matrix products, compiled for the processor at hand.

On a CPU these are many small PyTorch operations, each with its call and its pass over memory; here
each step is one, and a step of decoding is one altogether, its matrix products included. They are
compiled when first needed, by the machine's own C++ compiler ($CXX, c++, g++ or clang++), and kept
in the cache folder. Without a compiler, on a GPU and for what they do not know, the plain PyTorch
twins run.
"""
