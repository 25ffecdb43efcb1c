"""PTX checked without a GPU: an interpreter that reports bugs, a second engine on the CPU, and the assembler."""
