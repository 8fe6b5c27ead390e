/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of what needs no VFIO to be there: addresses of devices and of memory, and what is refused.
 */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/pcie_container.h"
#include "test/unit/nvme_pcie/support.h"

#define HUGE ((uint64_t)REGION_HUGE_BYTES)

static void pci_addresses(void **state)
{
	static const struct {
		const char *text, *full;
	} good[] = {
		{"0000:01:00.0", "0000:01:00.0"},
		{"01:00.0", "0000:01:00.0"},
		{"ABCD:ef:1f.7", "abcd:ef:1f.7"},
		{"0:3:2.1", "0000:03:02.1"},
	};
	static const char *const bad[] = {
		"",
		"nvme0",
		"0000:01:00",
		"0000:01:00.8",
		"0000:01:20.0",
		"0000:01:00.0 ",
		"0000:01:00.0x",
		"00001:01:00.0",
		"0000:011:00.0",
		"01:00.0/n1",
		"/dev/ng0n1",
		"0000-01-00.0",
		"::.",
		"0000: 1:00.0",
		"0000:01:+0.0",
		"0x0:01:00.0",
	};
	char full[PCIE_ADDRESS_BYTES];
	for (unsigned i = 0; i < COUNT_OF(good); i++) {
		assert_true(pcie_address_parse(good[i].text, full));
		assert_string_equal(full, good[i].full);
	}
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		if (pcie_address_parse(bad[i], full))
			fail_msg("'%s' was taken for an address", bad[i]);
	}
}

static void addresses_of_memory(void **state)
{
	const struct pcie_iova_span usable[] = {{0, 0xfedfffff},
						{0xfef00000, 8 * (1ull << 30) - 1}};
	struct pcie_iova_span taken[8] = {{0}};
	/* never 0 */
	assert_int_equal(pcie_iova_find(usable, 2, taken, 0, 4096), HUGE);
	taken[0] = (struct pcie_iova_span){HUGE, HUGE + 4095};
	assert_int_equal(pcie_iova_find(usable, 2, taken, 1, 4096), 2 * HUGE);
	/* into a gap that is wide enough, else behind it */
	taken[1] = (struct pcie_iova_span){4 * HUGE, 5 * HUGE - 1};
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, 2 * HUGE), 2 * HUGE);
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, 2 * HUGE + 1), 5 * HUGE);
	/* not across the interrupts' window, and aligned behind it */
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, 4ull << 30), 0xff000000);
	/* the last byte of the last span */
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, (8ull << 30) - 0xff000000),
			 0xff000000);
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, (8ull << 30) - 0xff000000 + 1), 0);
	assert_int_equal(pcie_iova_find(usable, 2, taken, 2, UINT64_MAX), 0);
	assert_int_equal(pcie_iova_find(usable, 0, taken, 0, 4096), 0);
	/* as much as there is, without overlap, and again after some was given back */
	const struct pcie_iova_span small = {0, 9 * HUGE - 1};
	unsigned count = 0;
	uint64_t at;
	while ((at = pcie_iova_find(&small, 1, taken, count, HUGE))) {
		assert_int_equal(at, (count + 1) * HUGE);
		taken[count++] = (struct pcie_iova_span){at, at + HUGE - 1};
	}
	assert_int_equal(count, 8);
	taken[3] = taken[2];
	memmove(&taken[3], &taken[4], 4 * sizeof(taken[0]));
	assert_int_equal(pcie_iova_find(&small, 1, taken, 7, HUGE), 4 * HUGE);
}

static void refuses_what_is_no_device(void **state)
{
	struct pcie_device device;
	char why[NVME_WHY_BYTES] = "";
	assert_int_equal(pcie_device_open(&device, "nonsense", why), -EINVAL);
	assert_non_null(strstr(why, "'nonsense' is no PCI address"));
	assert_int_equal(pcie_device_open(&device, "fffe:ff:1f.7", why), -ENODEV);
	assert_non_null(strstr(why, "fffe:ff:1f.7: there is no such PCI device"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pci_addresses),
		cmocka_unit_test(addresses_of_memory),
		cmocka_unit_test(refuses_what_is_no_device),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
