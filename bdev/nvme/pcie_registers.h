/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_registers: a controller's registers, as they are mapped from BAR0 - or as plain memory,
 * where a test plays the controller. 64-bit registers are read and written in halves, the lower
 * first, which every controller must allow. Any thread; each access costs a trip to the device, a
 * read both ways.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_REGISTERS_H
#define POLLUX_BDEV_NVME_PCIE_REGISTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bdev/nvme/spec.h"

struct pcie_registers {
	volatile uint8_t *base;
	size_t bytes;
};

static inline volatile uint32_t *pcie_register(const struct pcie_registers *registers,
					       uint32_t offset)
{
	return (volatile uint32_t *)(registers->base + offset);
}

static inline uint32_t pcie_read(const struct pcie_registers *registers, uint32_t offset)
{
	return *pcie_register(registers, offset);
}

static inline void pcie_write(const struct pcie_registers *registers, uint32_t offset,
			      uint32_t value)
{
	*pcie_register(registers, offset) = value;
}

static inline uint64_t pcie_read64(const struct pcie_registers *registers, uint32_t offset)
{
	uint64_t low = pcie_read(registers, offset);
	return low | (uint64_t)pcie_read(registers, offset + 4) << 32;
}

static inline void pcie_write64(const struct pcie_registers *registers, uint32_t offset,
				uint64_t value)
{
	pcie_write(registers, offset, (uint32_t)value);
	pcie_write(registers, offset + 4, (uint32_t)(value >> 32));
}

/* What a read of a device that is no longer there gives. CSTS is never that. */
static inline bool pcie_is_gone(uint32_t csts)
{
	return csts == UINT32_MAX;
}

#endif
